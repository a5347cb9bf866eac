"""The ODE graph: every solve still one operator, every vector field held once."""

from odedeploy.graph.records import FIELD_DOMAIN as FIELD_DOMAIN
from odedeploy.graph.records import OPSET as OPSET
from odedeploy.graph.records import SOLVE_DOMAIN as SOLVE_DOMAIN
from odedeploy.graph.records import Evaluator as Evaluator
from odedeploy.graph.records import Inputs as Inputs
from odedeploy.graph.records import OdeGraph as OdeGraph
from odedeploy.graph.records import Outcome as Outcome
from odedeploy.graph.records import Site as Site
from odedeploy.graph.signature import batch_symbol as batch_symbol
from odedeploy.graph.signature import delivered_specs as delivered_specs
from odedeploy.graph.signature import input_specs as input_specs
from odedeploy.graph.signature import output_specs as output_specs
