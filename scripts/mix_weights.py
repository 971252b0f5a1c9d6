r"""Weights between those of two runs, the second having gone on from the first (WiSE-FT, Wortsman et al. 2022).

What a run learnt from new records it often paid for with something it knew; part of the way keeps more of both.

    python scripts/mix_weights.py --first FOLDER/weights.pt --called "promptguard-l6 3" --second runs/more/weights.pt \
            --share 0.6 --out runs/mixed
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=Path, required=True)
    parser.add_argument("--called", required=True, help="what the first weights are, for the manifest")
    parser.add_argument("--second", type=Path, required=True)
    parser.add_argument("--share", type=float, required=True, help="of the way to the second")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if not 0 <= arguments.share <= 1:
        parser.error("--share must lie between 0 and 1")
    first, second = (torch.load(path, weights_only=True) for path in (arguments.first, arguments.second))
    mixed = {
        name: torch.lerp(values, second[name], arguments.share) if values.is_floating_point() else values
        for name, values in first.items()
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.save(mixed, arguments.out / "weights.pt")
    settings = json.loads((arguments.second.parent / "settings.json").read_text())
    settings["mixed"] = {"share_of_this_run": arguments.share, "with": arguments.called}
    (arguments.out / "settings.json").write_text(json.dumps(settings, indent=1))


if __name__ == "__main__":
    main()
