"""Build regression.parquet, the few documents that the regression run reads, from sample.parquet.

    .venv/bin/python build_regression.py

Twelve documents of each domain, cut to 1500 bytes, with columns that stand for what others computed: `entropies`
(float16, nats; element 0 belongs to BOS), those of a model that counts which byte follows which in these documents, and
`patch_lengths` (int32; BOS's patch first), words of at most twelve bytes. Equal inputs and pyarrow versions give equal
bytes.
"""

import math
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow
import pyarrow.parquet

HERE = Path(__file__).resolve().parent
DOCUMENTS_A_DOMAIN = 12
MAX_BYTES = 1500
MAX_PATCH = 12
BOS = -1


def cut(text: str) -> bytes:
    """The first MAX_BYTES bytes, back to the end of a character."""
    return text.encode()[:MAX_BYTES].decode(errors="ignore").encode()


def entropies_after(texts: list[bytes]) -> dict[int, float]:
    """The entropy in nats of the byte that follows each byte, or BOS."""
    following = defaultdict(Counter)
    for text in texts:
        for before, after in zip([BOS, *text], text):
            following[before][after] += 1
    entropies = {}
    for before, counts in following.items():
        total = sum(counts.values())
        shares = [n / total for n in counts.values()]
        entropies[before] = max(0.0, -sum(p * math.log(p) for p in shares))
    return entropies


def word_lengths(text: bytes) -> list[int]:
    """Lengths of patches: BOS alone, then words with the space or line end behind them."""
    lengths, length = [1], 0
    for byte in text:
        length += 1
        if byte in b" \n" or length == MAX_PATCH:
            lengths.append(length)
            length = 0
    return lengths + [length] if length else lengths


def main() -> None:
    sample = pyarrow.parquet.read_table(HERE / "sample.parquet").to_pylist()
    taken, rows = Counter(), []
    for row in sample:
        if taken[row["domain"]] < DOCUMENTS_A_DOMAIN:
            taken[row["domain"]] += 1
            rows.append((row["id"], row["domain"], cut(row["text"])))
    after = entropies_after([text for _, _, text in rows])
    entropies = [[after.get(b, 0.0) for b in [BOS, *text]] for _, _, text in rows]
    table = pyarrow.table(
        {
            "id": [i for i, _, _ in rows],
            "domain": [d for _, d, _ in rows],
            "text": [text.decode() for _, _, text in rows],
            "entropies": pyarrow.array(entropies, pyarrow.list_(pyarrow.float32())).cast(
                pyarrow.list_(pyarrow.float16())
            ),
            "patch_lengths": pyarrow.array([word_lengths(t) for _, _, t in rows], pyarrow.list_(pyarrow.int32())),
        }
    )
    path = HERE / "regression.parquet"
    text_bytes = sum(len(text) for _, _, text in rows)
    pyarrow.parquet.write_table(table, path, compression="zstd", compression_level=19)
    print(f"{path.name}: {table.num_rows} documents, {text_bytes} bytes of text, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
