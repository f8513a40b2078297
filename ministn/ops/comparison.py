"""Element by element: == != < <= > >=, broadcasting as NumPy does. The answers are bools, so nothing is recorded.

A Tensor can still be a key of a dict or an element of a set: there it stands for itself, not for its values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from ministn.autodiff import Tensor
from ministn.backend import is_array


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[Tensor, Any], Tensor]:
    def elementwise(a: Tensor, b: Any) -> Tensor:
        other = b.data if isinstance(b, Tensor) else b
        try:
            return Tensor(compare(a.data, other))
        except (TypeError, ValueError) as error:
            what = f"shape {other.shape}" if is_array(other) else repr(other)
            raise (TypeError if isinstance(error, TypeError) else ValueError)(
                f"{compare.__name__}: expected a number, or values that broadcast with shape {a.shape}, got {what}"
            ) from error

    elementwise.__name__ = compare.__name__
    elementwise.__doc__ = f"{compare.__doc__} Element by element; `b` is a Tensor, an array or a number."
    return elementwise


equal = _comparison(operator.eq)
not_equal = _comparison(operator.ne)
less = _comparison(operator.lt)
less_equal = _comparison(operator.le)
greater = _comparison(operator.gt)
greater_equal = _comparison(operator.ge)
