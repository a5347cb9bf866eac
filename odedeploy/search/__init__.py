"""Planning: the cheapest plan for a tolerance, and its certificate."""

from odedeploy.search.certificate import Certificate as Certificate
from odedeploy.search.certificate import achievable as achievable
from odedeploy.search.certificate import bound as bound
from odedeploy.search.certificate import highest_rate as highest_rate
from odedeploy.search.certificate import judge as judge
from odedeploy.search.certificate import minimum_samples as minimum_samples
from odedeploy.search.certificate import promise as promise
from odedeploy.search.certificate import shortfall as shortfall
from odedeploy.search.measure import Candidate as Candidate
from odedeploy.search.measure import quantile as quantile
from odedeploy.search.planning import Search as Search
from odedeploy.search.planning import search as search
from odedeploy.search.sequence import Tested as Tested
from odedeploy.search.sequence import order as order
from odedeploy.search.splits import Certify as Certify
from odedeploy.search.splits import Fit as Fit
from odedeploy.search.splits import Split as Split
from odedeploy.search.splits import Splits as Splits
from odedeploy.search.splits import Validate as Validate
from odedeploy.search.splits import split as split
