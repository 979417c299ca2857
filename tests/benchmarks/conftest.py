import sys
from pathlib import Path

# the benchmarks are scripts beside each other, no package
sys.path[:0] = [str(Path(__file__).parents[2] / "benchmarks"), str(Path(__file__).parent)]
