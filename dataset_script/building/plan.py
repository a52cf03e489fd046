"""How a dataset is made of rows and images: the options of a build."""

from dataclasses import dataclass

from .draws import position
from .splits import SPLITS, UNSEEN

DEPICTS, UNRELATED, NONE, UNKNOWN = range(4)
FROM_SOURCE = "source"
DEFAULT_SPLITS = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class Plan:
    """How a dataset is made of rows and images."""

    unrelated_share: float = 0.2  # of all sentences: those with an image of something else
    missing_share: float = 0.2  # those without an image; the others get one of an entity that they name
    splits: tuple[float, ...] | str = DEFAULT_SPLITS  # shares, or ``"source"`` to keep those of the sources
    unseen: str = "images"  # what of validation and test no other split has; near-duplicate images are one
    seed: int = 0  # of every choice

    def __post_init__(self) -> None:
        unrelated, missing, shares = self.unrelated_share, self.missing_share, self.splits
        if not (unrelated >= 0 and missing >= 0 and unrelated + missing <= 1):
            raise ValueError(
                f"--unrelated_share is {unrelated} and --missing_share is {missing}; expected two numbers "
                "of 0 or more, of at most 1 together."
            )
        if self.unseen not in UNSEEN:
            raise ValueError(f"--unseen is {self.unseen!r}; expected one of {', '.join(UNSEEN)}.")
        if shares != FROM_SOURCE and (
            isinstance(shares, str) or len(shares) != len(SPLITS) or min(shares) < 0 or not sum(shares) > 0
        ):
            raise ValueError(f"--splits is {shares}; expected three numbers as 0.8,0.1,0.1, or {FROM_SOURCE!r}.")

    @property
    def images_unseen(self) -> bool:
        """Whether no image is in two splits."""
        return self.unseen in ("images", "both")

    @property
    def entities_unseen(self) -> bool:
        """Whether no entity of validation or test is in another split."""
        return self.unseen in ("entities", "both")

    def relation(self, row_id: str, has_candidate: bool) -> int:
        """The relation drawn for a row."""
        unrelated, missing = self.unrelated_share, self.missing_share
        drawn = position((1 - unrelated - missing, unrelated, missing), self.seed, "relation", row_id)
        if drawn != DEPICTS or has_candidate:
            return drawn
        if not unrelated and not missing:
            return NONE
        return (UNRELATED, NONE)[position((unrelated, missing), self.seed, "instead", row_id)]
