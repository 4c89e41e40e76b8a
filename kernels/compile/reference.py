"""Namedtuples of arrays by reference: one pointer where numba passes ten words an array.

`Lent(value)` lays a namedtuple out in memory; compiled code gets its address and reads a field where it
is used, `value.field`, also of a namedtuple inside. A tuple by value is taken apart and put together
again at each call, which costs compilers minutes and an indirect call as much as the work it calls for.
With the compiler off `Lent(value)` is the value itself.

The type of a `Lent` is the names and types of the fields, not the class: machine code for a namedtuple that
is made when the program runs is found again on disk.
"""

import hashlib

import numpy as np

from dpu_runtime.kernels.compile.jit import PYTHON_MODE


def _words(value):
    """The 64-bit words of a value as numba lays it out: ArrayModel, TupleModel in its datamodel."""
    if isinstance(value, tuple):
        return [word for field in value for word in _words(field)]
    if isinstance(value, np.ndarray):
        owner = (0, 0)  # meminfo and parent: nothing is counted, see kernels/compile/jit.py
        return [*owner, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]
    return [int(value) & 0xFFFF_FFFF_FFFF_FFFF]


if PYTHON_MODE:

    def Lent(value):  # noqa: N802
        """The value itself."""
        return value

    def make_types(*lent):
        """There are none."""

else:
    from llvmlite import ir
    from numba import typeof, types
    from numba.core.typing.templates import AttributeTemplate
    from numba.extending import (
        NativeValue,
        infer_getattr,
        lower_getattr_generic,
        models,
        register_model,
        typeof_impl,
        unbox,
    )

    class Lent:
        """A namedtuple of arrays, ints and such namedtuples, for compiled functions to take by reference.

        Its fields are read as the namedtuple's; they stay what they are, and it must outlive the call.
        """

        def __init__(self, value):
            self.value = value
            self._type = None  # numba's, made once: it takes a millisecond
            self._memory = np.array(_words(value), np.uint64)
            self.address = self._memory.ctypes.data

        def __getattr__(self, name):
            return getattr(self.value, name)

    def make_types(*lent):
        """Make numba's types of these now, so that the first call with them takes no longer than others."""
        for one in lent:
            typeof(one)

    class Reference(types.Type):
        """numba's type of a `Lent`: (name, type) of each field, a Reference of a namedtuple's."""

        def __init__(self, title, fields):
            self.fields = fields
            text = ", ".join(f"{name}: {kind}" for name, kind in fields)
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            super().__init__(name=f"Reference({title} {digest})")

        def field(self, wanted):
            """(number, type) of a field, None if there is none of the name."""
            found = ((k, kind) for k, (name, kind) in enumerate(self.fields) if name == wanted)
            return next(found, None)

        def layout(self, context):
            """What it points at, for LLVM."""
            kinds = (kind for _, kind in self.fields)
            words = (
                kind.layout(context) if isinstance(kind, Reference) else context.get_value_type(kind)
                for kind in kinds
            )
            return ir.LiteralStructType(list(words))

    def _reference(kind):
        """The Reference to a value of type `kind`; of what is no namedtuple the type itself."""
        if not isinstance(kind, types.BaseNamedTuple):
            return kind
        fields = tuple(zip(kind.fields, map(_reference, kind.types), strict=True))
        return Reference(kind.instance_class.__name__, fields)

    @register_model(Reference)
    class _ReferenceModel(models.PrimitiveModel):
        def __init__(self, manager, kind):
            super().__init__(manager, kind, ir.IntType(8).as_pointer())

    @typeof_impl.register(Lent)
    def _typeof_lent(lent, context):
        if lent._type is None:
            lent._type = _reference(typeof(lent.value))
        return lent._type

    @unbox(Reference)
    def _unbox_lent(kind, lent, c):
        address = c.pyapi.object_getattr_string(lent, "address")
        word = c.pyapi.long_as_ulonglong(address)
        c.pyapi.decref(address)
        return NativeValue(c.builder.inttoptr(word, ir.IntType(8).as_pointer()))

    @infer_getattr
    class _ReferenceAttribute(AttributeTemplate):
        key = Reference

        def generic_resolve(self, reference, name):
            found = reference.field(name)
            return found and found[1]

    def _load(builder, pointer):
        """Load what `pointer` points at word by word: LLVM then drops the words that nobody uses."""
        pointee = pointer.type.pointee
        if not isinstance(pointee, (ir.LiteralStructType, ir.ArrayType)):
            word = builder.load(pointer)
            # Nobody writes there while it is lent, so a store elsewhere does not make it be read again.
            word.set_metadata("invariant.load", builder.module.add_metadata([]))
            return word
        value = ir.Constant(pointee, ir.Undefined)
        elements = pointee.elements if isinstance(pointee, ir.LiteralStructType) else range(pointee.count)
        for k in range(len(elements)):
            value = builder.insert_value(value, _load(builder, _part(builder, pointer, k)), k)
        return value

    def _part(builder, pointer, number):
        return builder.gep(pointer, [ir.IntType(32)(0), ir.IntType(32)(number)], inbounds=True)

    @lower_getattr_generic(Reference)
    def _lower_field(context, builder, reference, value, name):
        number, kind = reference.field(name)
        pointer = builder.bitcast(value, reference.layout(context).as_pointer())
        place = _part(builder, pointer, number)
        if isinstance(kind, Reference):
            return builder.bitcast(place, value.type)
        return _load(builder, place)
