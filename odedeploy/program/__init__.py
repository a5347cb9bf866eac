"""A plan as data, its construction from method × grid, and its NumPy definition."""

from odedeploy.program.alarm import Alarm as Alarm
from odedeploy.program.alarm import Residual as Residual
from odedeploy.program.build import build as build
from odedeploy.program.build import solve_plan as solve_plan
from odedeploy.program.build import write as write
from odedeploy.program.constants import Constants as Constants
from odedeploy.program.control import Control as Control
from odedeploy.program.dense import Dense as Dense
from odedeploy.program.dense import contract as contract
from odedeploy.program.dense import expand as expand
from odedeploy.program.dense import written_out as written_out
from odedeploy.program.instructions import Combine as Combine
from odedeploy.program.instructions import Evaluate as Evaluate
from odedeploy.program.instructions import Instruction as Instruction
from odedeploy.program.instructions import Plan as Plan
from odedeploy.program.instructions import Program as Program
from odedeploy.program.instructions import SolvePlan as SolvePlan
from odedeploy.program.interpret import interpret as interpret
