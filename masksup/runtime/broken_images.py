"""Samples whose images cannot be read: how many there may be does not depend on how many ranks share the work."""

from dataclasses import dataclass, field

from torch import Tensor

from masksup.base.log import log
from masksup.base.words import counted
from masksup.data.index import Index
from masksup.errors import ToldElsewhere, UserError
from masksup.runtime.ranks import Group


@dataclass
class BrokenImages:
    """Of a part of `samples` samples of `index`: the broken ones that all ranks know, and those that this one found.

    budget: the share of the samples that may be broken.
    known: numbers in the index of those that all ranks know; each was named in the log of rank 0 and counts once,
    however often, by whichever rank and in whichever start of the run it is met again.
    found: those that this rank met since it last told the others.
    """

    index: Index
    samples: int
    budget: float
    known: set[int] = field(default_factory=set)
    found: set[int] = field(default_factory=set)

    def note(self, broken_B: Tensor, sample_B: Tensor) -> None:
        """Take in a batch: which of its samples (numbers in the index) are broken."""
        if broken_B.any():
            self.found.update(set(sample_B[broken_B].tolist()) - self.known)

    def tell(self, group: Group) -> None:
        """Make what each rank found known to all, named by rank 0. Collective; UserError above the budget."""
        new = set().union(*group.all(self.found)) - self.known
        self.known |= new
        self.found.clear()
        for sample in sorted(new) if group.first else ():
            log.warning(f"{self.index.where(sample)}: broken image, left out (sample {self.index.id(sample)})")
        if len(self.known) > self.budget * self.samples:
            text = (
                f"{self.index.where(max(self.known))}: found {counted(len(self.known), 'broken image')} of "
                f"{self.samples}, expected a share of at most {self.budget} (data.broken_budget)"
            )
            raise UserError(text) if group.first else ToldElsewhere(text)
