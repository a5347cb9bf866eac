from odedeploy.cli import app

app()
