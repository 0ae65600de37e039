"""What the lower room's tests are built from serves here too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "points"))
