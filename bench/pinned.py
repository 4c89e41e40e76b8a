"""Functions in threads of their own, each on a CPU."""

import os
import threading


def in_threads(*functions):
    """Results of functions, each in a thread of its own."""
    made = [None] * len(functions)

    def call(number):
        made[number] = functions[number]()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made


def pinned(cpu, function, *args):
    """Call a function with this thread on `cpu`; in a thread that ends, or to be put back."""
    os.sched_setaffinity(0, {cpu})
    return function(*args)
