"""What was measured of several pairs in alternation, each sample having several figures, as Results.

In:   samples are {figure: value}, the same figures of every pair; "" is what the title says already.
Out:  TITLE, FIGURE: PAIR for each pair, and TITLE, FIGURE: DPU / PAIR; what is not compared is
      TITLE: PAIR, FIGURE.
"""

from bench import results
from bench.peers.pairs import DPU

# Units that are compared; of the others, such as messages lost, a ratio says nothing.
LOWER_IS_BETTER = {"us": True, "requests/s": False, "connections/s": False, "Gbit/s": False, "kpps": False}


def measure(title, there, repeats, sample, units, alone=()):
    """Results of `sample` of each of the pairs `there`, the DPU's compared with the others.

    units  figure -> unit; those it does not name are in us
    alone  figures that are not compared
    """
    samples = {name: lambda pair=pair: sample(pair) for name, pair in there.items()}
    return compare(title, results.alternate(samples, repeats), units, alone)


def compare(title, taken, units, alone=()):
    """Results of {pair: [sample]}."""
    for figure in taken[DPU][0]:
        unit = units.get(figure, "us")
        values = {name: [sample[figure] for sample in samples] for name, samples in taken.items()}
        if figure in alone or unit not in LOWER_IS_BETTER:
            for name, of_one in values.items():
                yield results.result(f"{title}: {name}, {figure}", unit, of_one)
            continue
        what = f"{title}, {figure}" if figure else title
        for name, of_one in values.items():
            yield results.result(f"{what}: {name}", unit, of_one)
        for name, theirs in values.items():
            if name != DPU:
                better = LOWER_IS_BETTER[unit]
                yield results.ratio(f"{what}: {DPU} / {name}", values[DPU], theirs, unit, better)
