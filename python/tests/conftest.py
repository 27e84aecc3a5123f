"""One thread: tiny models are slower with several, and sums are then the same in every run."""
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent))
