"""Changes a file where it lies (Linux; ext4, XFS): the file system moves the trunk by whole blocks, nothing is copied.

move.py says whether that is possible; journal.py is what a killed run leaves to undo it by; apply.py does it;
recover.py brings a file in between back.
"""

from mtpgraft.inplace.apply import CannotMoveError, apply_in_place, locked
from mtpgraft.inplace.move import Move, NoMove, plan_move
from mtpgraft.inplace.recover import Recovered, recover, recover_if_needed

__all__ = [
    "CannotMoveError",
    "Move",
    "NoMove",
    "Recovered",
    "apply_in_place",
    "locked",
    "plan_move",
    "recover",
    "recover_if_needed",
]
