"""The command `poplin`: each command reads its options and hands a job on; nothing numerical is here.

Start at `commands.main`; `options.py` holds the options that commands share.
"""

from poplin.cli.commands import app as app
from poplin.cli.commands import main as main
