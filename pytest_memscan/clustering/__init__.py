"""Groups of near-identical generated images: what a fine-tune gives away. Pure."""

from pytest_memscan.clustering.extraction import (
    FLOOR,
    NODE_BUDGET,
    RULES,
    Extraction,
    default_support,
    extract,
)

__all__ = ["FLOOR", "NODE_BUDGET", "RULES", "Extraction", "default_support", "extract"]
