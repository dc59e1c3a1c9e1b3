#!/usr/bin/env python3
"""Draws the ratios that bench.py wrote, of one or more machines: `python tests/peer/chart.py docs/speed*.json docs/speed.svg`."""
import json, statistics, sys
from pathlib import Path

LEFT, WIDTH, BAR, GAP = 150, 400, 13, 10
INK, FAINT, PEER = "#1f2933", "#d6dce2", "#9aa5b1"
# A colour for each machine, told apart by lightness too.
MACHINES = ["#1d4f8c", "#4f8fd0", "#a9cbee", "#6b7f94"]


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
    machines, panels = [], {}
    for source in sources:
        found = json.loads(Path(source).read_text())
        reached = max(r["blt"]["machine_gflops"] for phases in found["presets"].values() for rounds in phases.values() for r in rounds)
        machines.append(f"{found['machine']} ({reached:.0f} GFLOP/s)")
        for preset, phases in found["presets"].items():
            for label, *numbers in rows(phases):
                panels.setdefault(preset, {}).setdefault(label, []).append((len(machines) - 1, *numbers))
    most = max(high for panel in panels.values() for bars in panel.values() for *_, high, _ in bars)
    x = lambda ratio: LEFT + WIDTH * ratio / (most * 1.02)
    out, y = [], 40
    text = lambda x, y, words, more="": out.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}" {more}>{words}</text>')
    text(12, 20, "blt-run, and transformers on PyTorch = 1, on the same two cores", 'font-weight="600"')
    at = 12
    for machine, name in enumerate(machines):
        out.append(f'<rect x="{at}" y="{y - 9}" width="{BAR}" height="{BAR - 2}" fill="{MACHINES[machine]}"/>')
        text(at + BAR + 5, y, name)
        at += BAR + 32 + 6.1 * len(name)
    legend = at
    for preset, panel in panels.items():
        y += 22
        text(12, y + 4, preset, 'font-weight="600"')
        y += 12
        bottom = y + sum(BAR * len(bars) + GAP for bars in panel.values())
        for at in range(0, int(most) + 1):
            out.append(f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{y}" y2="{bottom}" stroke="{PEER if at == 1 else FAINT}"/>')
        for label, bars in panel.items():
            y += GAP / 2
            text(LEFT - 8, y + BAR * len(bars) / 2 + 4, label, 'text-anchor="end"')
            for machine, ratio, low, high, words in bars:
                out.append(f'<rect x="{LEFT}" y="{y}" width="{x(ratio) - LEFT:.1f}" height="{BAR - 2}" fill="{MACHINES[machine]}"/>')
                out.append(f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y + 5.5}" y2="{y + 5.5}" stroke="{INK}" stroke-width="1.5"/>')
                text(x(max(ratio, high)) + 8, y + 9.5, f"{ratio:.1f}×  <tspan fill='#52606d'>{words}</tspan>", 'font-size="11"')
                y += BAR
            y += GAP / 2
        for at in range(0, int(most) + 1):
            text(x(at), y + 12, f"{at}×", 'text-anchor="middle" font-size="10"')
        y += 16
    width, height = round(max(LEFT + WIDTH + 230, legend)), y + 12
    Path(target).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>' + "".join(out) + "</svg>\n")


if __name__ == "__main__":
    main()
