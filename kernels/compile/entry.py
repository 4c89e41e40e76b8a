"""Entries: kernels that compiled code calls by the address of their machine code.

numba cannot keep a call through a function value on disk, so a call takes an address. Both sides say the
types of the arguments: `entry_address` what the kernel is compiled for, `caller` what is passed.
With the compiler off an address is a number that stands for a function, or for an object that is lent.
"""

from dpu_runtime.kernels.compile.mode import PYTHON_MODE

_objects = []  # of Python mode: an address is 1 + an index of this

if PYTHON_MODE:

    def entry_address(kernel, passed=()):
        """What stands for the address of a function."""
        _objects.append(kernel)
        return len(_objects)

    lent_address = entry_address

    def caller(returned, n_args, lent=(), check=None):
        """A function that calls what an address stands for."""

        def call(address, *args):
            assert len(args) == n_args
            given = [_objects[int(arg) - 1] if k in lent else arg for k, arg in enumerate(args)]
            return _objects[int(address) - 1](*given)

        return call

else:
    from inspect import Parameter, Signature

    from numba import types

    from dpu_runtime.kernels.compile.jit import primitive

    def entry_address(kernel, passed):
        """Address of the machine code of a kernel for arguments of types `passed`: from disk, or made now.

        It lives as long as the kernel. Raises numba's TypingError or LoweringError when it does not compile.
        """
        passed = tuple(passed)
        kernel.compile(passed)
        made = kernel.overloads[passed]
        return made.library.get_pointer_to_function(made.fndesc.llvm_func_name)

    def lent_address(lent):
        """Address of a Lent, for an argument in `lent` of a caller; the Lent must outlive the calls."""
        return lent.address

    def caller(returned, n_args, lent=(), check=None):
        """A function for kernels, `call(address, *args)`, that calls entries by numba's calling convention.

        returned  str, type of what an entry returns, as "int64", "none", "UniTuple(int64, 2)"
        n_args    int, arguments behind the address
        lent      numbers of the arguments that are addresses of a Lent, of any type
        check     called with the types that a call passes; it may raise TypingError
        """
        result = eval(returned, {}, vars(types))

        def call(typingctx, address, *args):
            passed = tuple(types.voidptr if k in lent else kind for k, kind in enumerate(args))
            if check is not None:
                check(passed)

            def codegen(context, builder, signature, values):
                function_type = context.call_conv.get_function_type(result, passed)
                function = builder.inttoptr(values[0], function_type.as_pointer())
                given = list(values[1:])
                for k in lent:
                    given[k] = builder.inttoptr(given[k], context.get_value_type(types.voidptr))
                status, value = context.call_conv.call_function(builder, function, result, passed, given)
                with builder.if_then(status.is_error, likely=False):
                    context.call_conv.return_status_propagate(builder, status)
                return value

            accepted = (types.uint64 if k in lent else kind for k, kind in enumerate(args))
            return result(types.uint64, *accepted), codegen

        names = ("typingctx", "address", *(f"argument_{k}" for k in range(n_args)))
        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        call.__signature__ = Signature(parameters)  # numba wants to know how many
        return primitive(None)(call)
