"""What all optimisers share: groups of parameters with their own options, and saving and loading."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ministn.autodiff import Tensor
from ministn.backend import Array, array_module, is_array, to_device

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


class Optimizer:
    """The base of all optimisers: a subclass says which options it has and how one parameter is moved.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        The parameters; or groups of them, dicts with the key ``"params"`` and any options that differ from
        `defaults`, such as a smaller ``"lr"`` for a localisation network.
    defaults : dict
        Every option and its value where a group names none.

    Attributes
    ----------
    param_groups : list of dict
        Each with ``"params"``, a list of Tensor, and all options. Schedules write to ``"lr"``.
    state : dict of Tensor to dict
        What is remembered of each parameter that was moved: arrays of its shape, or an integer ``"step"``.
    """

    state_names: tuple[str, ...] = ()

    def __init__(self, params: Parameters, defaults: dict[str, Any]) -> None:
        self._name = type(self).__name__
        if isinstance(params, (Tensor, Mapping)):
            raise TypeError(
                f"{self._name}: expected a list of parameters or of groups, got one {type(params).__name__}"
            )
        self.defaults = self._checked(defaults)
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        self._library: type | None = None  # of the arrays at the last step, for `_follow_parameters`
        entries: list[Any] = list(params)
        if not entries:
            raise ValueError(f"{self._name}: expected at least one parameter, got an empty list")
        for group in entries if isinstance(entries[0], Mapping) else [{"params": entries}]:
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own: a dict with ``"params"`` and those that differ from `defaults`."""
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"{self._name}: expected a group to be a dict with the key 'params', got {group!r}")
        options = {name: value for name, value in group.items() if name != "params"}
        unknown = sorted(set(options) - set(self.defaults))
        if unknown:
            known = ", ".join(self.defaults)
            raise ValueError(f"{self._name}: unknown option {', '.join(unknown)} in a group; the options are {known}")
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        seen = {id(param) for own in self.param_groups for param in own["params"]}
        for param in params:
            if not isinstance(param, Tensor):
                raise TypeError(f"{self._name}: expected parameters to be Tensors, got {type(param).__name__}")
            if not param.is_leaf or param.dtype.kind != "f":
                raise ValueError(
                    f"{self._name}: expected floating-point leaves of the graph as parameters, got {param}"
                )
            if id(param) in seen:
                raise ValueError(
                    f"{self._name}: a parameter of shape {param.shape} is given twice; it would move twice"
                )
            seen.add(id(param))
        self.param_groups.append({"params": params, **self._checked({**self.defaults, **options})})

    def step(self) -> None:
        """Move every parameter that has a gradient, in place.

        Raises
        ------
        ValueError
            If a gradient has not the shape, dtype and device of its parameter; no parameter is moved then.
        """
        for index, param in enumerate(self._all_parameters()):
            if param.grad is not None:
                data, grad = param.data, param.grad.data
                if grad.shape != data.shape or grad.dtype != data.dtype or type(grad) is not type(data):
                    raise ValueError(
                        f"{self._name}: expected the gradient of parameter {index} to have shape {param.shape} and "
                        f"dtype {param.dtype} on the {param.device}, "
                        f"got {param.grad.shape} and {param.grad.dtype} on the {param.grad.device}"
                    )
        self._follow_parameters()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param.data, param.grad.data, self.state.setdefault(param, {}), group)

    def _follow_parameters(self) -> None:
        """Bring the state to the device of the parameters, if `Module.to` has moved them since the last step."""
        first = next(iter(self.state), None)
        if first is not None and type(first.data) is not self._library:  # one look, not one for each array
            self._library = type(first.data)
            for param, values in self.state.items():
                for name, value in values.items():
                    if is_array(value):
                        values[name] = to_device(value, param.device)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        """`options` with every number validated and as a Python number, which never promotes a float32 array."""
        raise NotImplementedError

    def _update(self, data: Array, grad: Array, state: dict[str, Any], options: dict[str, Any]) -> None:
        """Move one parameter's `data` in place. `grad` must not be written to: its memory may be shared."""
        raise NotImplementedError

    # --- saving and loading ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state and options in plain dicts, with parameters replaced by their running index.

        Returns
        -------
        dict
            ``{"state": {index: {name: numpy.ndarray or int}}, "param_groups": [{"params": [index], option: value}]}``
        """
        index = {param: i for i, param in enumerate(self._all_parameters())}
        state = {
            index[param]: {
                name: value if isinstance(value, int) else np.array(Tensor(value).numpy())
                for name, value in values.items()
            }
            for param, values in self.state.items()
            if values  # a parameter of which nothing is remembered has no entry
        }
        groups = [{**group, "params": [index[param] for param in group["params"]]} for group in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; on any error nothing is changed.

        Raises
        ------
        ValueError
            If the groups, their options, or the names, shapes or dtypes of the state are not this optimiser's.
        """
        where = f"{self._name}.load_state_dict"
        groups = state_dict["param_groups"]
        own = self.state_dict()["param_groups"]
        if [group["params"] for group in groups] != [group["params"] for group in own]:
            sizes, own_sizes = ([len(group["params"]) for group in g] for g in (groups, own))
            raise ValueError(f"{where}: expected groups of {own_sizes} parameters in this order, got {sizes}")
        options = []
        for group in groups:
            loaded = {name: value for name, value in group.items() if name != "params"}
            if set(loaded) != set(self.defaults):
                raise ValueError(f"{where}: expected the options {sorted(self.defaults)}, got {sorted(loaded)}")
            options.append(self._checked(loaded))
        params = self._all_parameters()
        state: dict[Tensor, dict[str, Any]] = {}
        for index, values in state_dict["state"].items():
            if not 0 <= index < len(params):
                raise ValueError(f"{where}: expected parameters 0 to {len(params) - 1}, got state of {index}")
            if set(values) != set(self.state_names):
                raise ValueError(
                    f"{where}: expected parameter {index} to have {sorted(self.state_names)}, got {sorted(values)}"
                )
            state[params[index]] = {
                name: _loaded(f"{where}: {name} of parameter {index}", name, value, params[index])
                for name, value in values.items()
            }
        self.state = state
        for group, loaded in zip(self.param_groups, options, strict=True):
            group.update(loaded)

    def _all_parameters(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def __repr__(self) -> str:
        groups = (
            f"({len(group['params'])} parameters: "
            + ", ".join(f"{name}={value}" for name, value in group.items() if name != "params")
            + ")"
            for group in self.param_groups
        )
        return f"{self._name}({', '.join(groups)})"


def checked_number(name: str, option: str, value: Any, below: float = math.inf) -> float:
    """`value` as a float, if it is a number with 0 <= value < `below`."""
    if not isinstance(value, numbers.Real) or not 0 <= float(value) < below:
        limit = "finite" if below == math.inf else f"below {below:g}"
        raise ValueError(f"{name}: expected {option} to be a number, at least 0 and {limit}, got {value!r}")
    return float(value)


def _loaded(where: str, name: str, value: Any, param: Tensor) -> Any:
    if name == "step":
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{where}: expected a non-negative integer, got {value!r}")
        return value
    value = np.asarray(value)
    if value.shape != param.shape or value.dtype != param.dtype:
        raise ValueError(
            f"{where}: expected shape {param.shape} and dtype {param.dtype}, got {value.shape} and {value.dtype}"
        )
    return array_module(param.data).array(value)
