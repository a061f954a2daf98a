"""What Triton's interpreter reads and writes, held against the arguments of the kernel."""

import numpy as np
import torch


def check_addresses(monkeypatch) -> None:
    """Let every load and store fail that goes beside the memory of the kernel's arguments."""
    from triton.runtime import interpreter

    places: list[tuple[int, int]] = []
    executor, builder = interpreter.GridExecutor, type(interpreter.interpreter_builder)
    give = executor._init_args_hst
    load, store = builder.create_masked_load, builder.create_masked_store

    def give_and_note(self, args, kwargs):
        given = give(self, args, kwargs)
        tensors = [t for t in (*given[0], *given[1].values()) if isinstance(t, torch.Tensor)]
        ends = [t.untyped_storage().data_ptr() + t.untyped_storage().nbytes() for t in tensors]
        places[:] = [(t.data_ptr(), end) for t, end in zip(tensors, ends, strict=True)]
        return given

    def check(pointers, mask):
        size = np.dtype(interpreter._get_np_dtype(pointers.get_element_ty())).itemsize
        used = np.broadcast_to(mask.data, pointers.data.shape).astype(bool)
        at = pointers.data[used].astype(np.int64)
        inside = [(at >= begin) & (at + size <= end) for begin, end in places]
        assert np.any(inside, axis=0).all(), "an address beside all arguments"

    def checked_load(self, pointers, mask, *rest):
        check(pointers, mask)
        return load(self, pointers, mask, *rest)

    def checked_store(self, pointers, value, mask, *rest):
        check(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    monkeypatch.setattr(executor, "_init_args_hst", give_and_note)
    monkeypatch.setattr(builder, "create_masked_load", checked_load)
    monkeypatch.setattr(builder, "create_masked_store", checked_store)
