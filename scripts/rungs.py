"""Draw the brackets and rungs of Hyperband for docs/schedulers.md, from the code that makes them.

python scripts/rungs.py    # writes docs/images/rungs.svg
"""

from __future__ import annotations

import math
from pathlib import Path

from mlflow_hpo.schedulers.hyperband import hyperband_brackets

TARGET = Path(__file__).parents[1] / "docs" / "images" / "rungs.svg"
PANEL, ROW, LEFT, TOP = 150, 34, 78, 56  # pixels
WIDEST = PANEL - 40
COLOURS = ("#dbe9f6", "#bad6eb", "#89bedc", "#539ecd", "#2b7bba")  # the longer the training, the darker


def figure(max_resource: int, eta: int) -> str:
    """Return an SVG: a column for each bracket, a row for each rung, a bar for its trials on a log scale."""
    plans = hyperband_brackets(1, max_resource, eta)
    levels = plans[0].levels
    most = math.log(plans[0].trials) + 1
    parts = []
    for row, level in enumerate(levels):
        y = TOP + row * ROW + ROW / 2
        parts.append(f'<text x="{LEFT - 14}" y="{y}" text-anchor="end">epoch {level}</text>')
    for column, plan in enumerate(plans):
        x = LEFT + column * PANEL
        parts.append(f'<text x="{x}" y="{TOP - 12}" font-weight="bold">bracket {column}</text>')
        trials = plan.trials
        for row in range(len(levels) - len(plan.levels), len(levels)):
            width = WIDEST * (math.log(trials) + 1) / most
            y = TOP + row * ROW
            parts.append(
                f'<rect x="{x}" y="{y + 4}" width="{width:.1f}" height="{ROW - 8}" rx="3" '
                f'fill="{COLOURS[row]}"/><text x="{x + width + 6:.1f}" y="{y + ROW / 2}">{trials}</text>'
            )
            trials = max(1, trials // eta)
    width, height = LEFT + len(plans) * PANEL, TOP + len(levels) * ROW + 14
    title = f"Trials at each rung of Hyperband, R = {max_resource}, eta = {eta}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="13" dominant-baseline="middle" role="img" aria-label="{title}">'
        f'<rect width="{width}" height="{height}" fill="white"/>'
        f'<text x="{LEFT}" y="20" font-size="15">{title}</text>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    TARGET.write_text(figure(81, 3))
