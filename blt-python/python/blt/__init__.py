"""Scores of documents by a Byte Latent Transformer: bits per byte, patches, entropies.

`blt.Scorer` scores Arrow record batches of any library; `blt.ray.score` scores a data set on a Ray cluster.
"""

from blt._blt import Error, Scored, Scorer, __version__

__all__ = ["Error", "Scored", "Scorer", "__version__"]
