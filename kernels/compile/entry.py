"""Entries: kernels compiled apart, that other kernels call by the address of their machine code.

numba cannot keep a call through a function value on disk, so a call takes addresses, uint64: of the machine
code, and of the Lent that is the entry's state. With the compiler off an address is 1 + an index of a list.
"""

from dpu_runtime.kernels.compile.mode import PYTHON_MODE

_objects = []  # of Python mode


def python_object(address):
    """What an address stands for with the compiler off."""
    return _objects[int(address) - 1]


def _python_address(value):
    _objects.append(value)
    return len(_objects)


if PYTHON_MODE:

    def types_of(*args):
        """There are none."""
        return ()

    def entry_address(kernel, passed, returned):
        """What stands for the address of a function."""
        return _python_address(kernel)

    lent_address = _python_address

else:
    from numba import typeof, types
    from numba.core.errors import TypingError

    from dpu_runtime.kernels.compile.reference import Reference

    def types_of(*args):
        """numba's types of arguments."""
        return tuple(map(typeof, args))

    def entry_address(kernel, passed, returned):
        """Address of the machine code of a kernel for arguments of types `passed`: from disk, or made now.

        It lives as long as the kernel. Raises what the compiler does, TypeError if another type than
        `returned` comes back.
        """
        kernel.compile(passed)
        made = kernel.overloads[passed]
        if made.signature.return_type != returned:
            raise TypeError(f"{kernel}: returns {made.signature.return_type} instead of {returned}")
        return made.library.get_pointer_to_function(made.fndesc.llvm_func_name)

    def lent_address(lent):
        """Address of a Lent, which must outlive the calls."""
        return lent.address

    def call_entry(name, returned, passed, burst=None):
        """Signature and code of a call, for an intrinsic: call(address, *passed) -> returned.

        A state is a pointer in the entry and an address, uint64, in `passed`: the same register. TypingError:
        `burst`, one of `passed`, goes by value; the entry would read addresses at addresses.
        """
        if burst is not None and not isinstance(burst, Reference):
            raise TypingError(f"{name}: a burst must be lent, it is {type(burst).__name__}")

        def codegen(context, builder, signature, values):
            function_type = context.call_conv.get_function_type(returned, passed)
            function = builder.inttoptr(values[0], function_type.as_pointer())
            status, value = context.call_conv.call_function(builder, function, returned, passed, values[1:])
            with builder.if_then(status.is_error, likely=False):
                context.call_conv.return_status_propagate(builder, status)
            return value

        return returned(types.uint64, *passed), codegen
