#!/usr/bin/env python3
"""Draws the ratios that bench.py wrote, one or more machines': `python tests/peer/chart.py docs/speed.json docs/speed-zen4.json docs/speed.svg`."""
import json, statistics, sys
from pathlib import Path

LEFT, WIDTH, ROW, BAR = 150, 420, 26, 16
PEER, BLT, INK, FAINT = "#9aa5b1", "#2f6db5", "#1f2933", "#d6dce2"


def rate(value):
    return f"{value / 1e3:.1f} kB/s" if value < 1e6 else f"{value / 1e6:.2f} MB/s"


def rows(phases):
    """Label, ratio, its extremes over rounds, and what is compared."""
    middle = lambda rounds, side, key: statistics.median(r[side][key] for r in rounds)
    for phase, rounds in phases.items():
        ratios = [r["blt"]["bytes_per_second"] / r["peer"]["bytes_per_second"] for r in rounds]
        mine, theirs = (middle(rounds, side, "bytes_per_second") for side in ("blt", "peer"))
        yield phase, statistics.median(ratios), min(ratios), max(ratios), f"{rate(mine)} against {rate(theirs)}"
        if phase == "training":
            ratios = [r["peer"]["memory_beyond"] / r["blt"]["memory_beyond"] for r in rounds]
            mine, theirs = (middle(rounds, side, "memory_beyond") / 1e6 for side in ("blt", "peer"))
            yield "memory of training", statistics.median(ratios), min(ratios), max(ratios), f"{mine:.0f} MB against {theirs:.0f} MB"


def main():
    *sources, target = sys.argv[1:]
    panels = {}
    for source in sources:
        for preset, phases in json.loads(Path(source).read_text())["presets"].items():
            reached = max(r["blt"]["machine_gflops"] for rounds in phases.values() for r in rounds)
            panels[f"{preset}, where products reach {reached:.0f} GFLOP/s"] = list(rows(phases))
    most = max(high for panel in panels.values() for _, _, _, high, _ in panel)
    x = lambda ratio: LEFT + WIDTH * ratio / (most * 1.02)
    out, y = [], 34
    text = lambda x, y, words, more="": out.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}" {more}>{words}</text>')
    text(12, 20, "blt-run, and transformers on PyTorch = 1, on the same two cores", 'font-weight="600"')
    for preset, panel in panels.items():
        y += 14
        text(12, y + 4, preset, 'font-weight="600"')
        y += 12
        bottom = y + ROW * len(panel)
        for at in range(0, int(most) + 1):
            out.append(f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{y}" y2="{bottom}" stroke="{PEER if at == 1 else FAINT}"/>')
        for label, ratio, low, high, words in panel:
            text(LEFT - 8, y + 17, label, 'text-anchor="end"')
            out.append(f'<rect x="{LEFT}" y="{y + 5}" width="{x(ratio) - LEFT:.1f}" height="{BAR}" fill="{BLT}"/>')
            out.append(f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y + 13}" y2="{y + 13}" stroke="{INK}" stroke-width="1.5"/>')
            text(x(max(ratio, high)) + 8, y + 17, f"{ratio:.1f}×  <tspan fill='#52606d'>{words}</tspan>")
            y += ROW
        for at in range(0, int(most) + 1):
            text(x(at), y + 12, f"{at}×", 'text-anchor="middle" font-size="10"')
        y += 20
    width, height = LEFT + WIDTH + 250, y + 8
    Path(target).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>' + "".join(out) + "</svg>\n")


if __name__ == "__main__":
    main()
