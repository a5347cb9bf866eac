"""Running an exported file with NumPy and onnxruntime, and nothing else."""

from odedeploy.runtime.metadata import GOLDEN as GOLDEN
from odedeploy.runtime.metadata import GRAPH as GRAPH
from odedeploy.runtime.metadata import MANIFEST as MANIFEST
from odedeploy.runtime.metadata import MONITOR_FLOOR as MONITOR_FLOOR
from odedeploy.runtime.metadata import Golden as Golden
from odedeploy.runtime.metadata import GoldenCheck as GoldenCheck
from odedeploy.runtime.metadata import alarm_output as alarm_output
from odedeploy.runtime.metadata import check_golden as check_golden
from odedeploy.runtime.metadata import read_golden as read_golden
from odedeploy.runtime.metadata import read_manifest as read_manifest
from odedeploy.runtime.model import Artefact as Artefact
from odedeploy.runtime.options import BATCH as BATCH
from odedeploy.runtime.options import CONTROL as CONTROL
from odedeploy.runtime.options import STEPS as STEPS
from odedeploy.runtime.options import check_options as check_options
from odedeploy.runtime.session import Model as Model
from odedeploy.runtime.session import load as load
from odedeploy.runtime.signature import Arrays as Arrays
from odedeploy.runtime.signature import batch_first as batch_first
from odedeploy.runtime.signature import batch_symbol as batch_symbol
from odedeploy.runtime.signature import check_inputs as check_inputs
