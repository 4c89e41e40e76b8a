"""A memory that a process of another version runs on: which regions fit, which are made anew, what goes on.

In:   what the running data plane has mapped, as its `hello` tells. What else the directory has is of a
      process that was killed on its way here, and is forgotten.
Out:  entries of the directory; in regions that are made anew, what those before them have counted.
Not:  tables. Whoever knows the configuration writes them anew before a worker sees the region.

The region before stays until no process uses it: that one goes on with it while the new one is filled.
"""

import os

import numpy as np

from dpu_runtime.kernels.drops import Drop
from dpu_runtime.plane.regions import Array

DROPS = "drops"  # the array whose sum is in the balance of packets


def told(region, entry, workers):
    """What a process says of a region that it has mapped: JSON, with what there is to be counted on from."""
    arrays, octets = region.place(workers)
    counted = {name: arrays[name].told() for name in (*region.counters, *region.columns)}
    columns = {name: list(names) for name, names in region.columns.items()}
    place = {"offset": entry.offset, "octets": octets, "hash": entry.hash}
    return {**place, "counted": counted, "columns": columns}


class Succession:
    """The regions of `memory` between the data plane that runs and the one that `regions` are declared by.

    before  {name: told} of what runs
    kept, made, gone   names of the regions that go on, are made anew, and are not declared any more
    Raises RegionError with nothing changed, ValueError when a region of `firm` is not as it was.
    """

    def __init__(self, memory, regions, before, firm):
        self._memory = memory
        self._before = before
        entries = {entry.offset: entry for entry in memory.entries()}
        used = {place["offset"] for place in before.values()}
        self._old = [entry for offset, entry in entries.items() if offset in used]
        found = {}
        for region in regions:
            place = before.get(region.name)
            found[region.name] = place and memory.find(region, place["offset"])
            if found[region.name] is None and region.name in firm:
                raise ValueError(f"region {region.name!r} of the shared memory is of another layout")
        for offset, entry in entries.items():
            if offset not in used:
                memory.forget(entry)
        self.kept = [region.name for region in regions if found[region.name]]
        self.made = [region.name for region in regions if not found[region.name]]
        self.gone = [name for name in before if name not in found]
        self._regions = {region.name: region for region in regions}
        self.entries, self.arrays, self._new = {}, {}, []
        try:
            for region in regions:
                entry = found[region.name]
                if entry:
                    arrays = memory.map(region, entry)
                else:
                    entry, arrays = memory.make(region)
                    self._new.append(entry)
                self.entries[region.name], self.arrays[region.name] = entry, arrays
            self._counted = {
                name: self._map_counted(name) for name in (*self.made, *self.gone) if name in before
            }
        except BaseException:
            self.undo()
            raise

    def describe(self):
        """In words: what became of each region."""
        changed = [name for name in self.made if name in self._before]
        new = [name for name in self.made if name not in self._before]
        said = {"kept": self.kept, "made anew, of another layout": changed, "new": new, "dropped": self.gone}
        return "; ".join(f"{what}: {', '.join(names)}" for what, names in said.items() if names)

    def _map_counted(self, name):
        place = self._before[name]
        arrays = {array: Array.from_told(one) for array, one in place["counted"].items()}
        return self._memory.at(name, place["offset"], place["octets"], arrays)

    def counts_go_on(self, name):
        """Whether the counters of a region say what they said: it was kept, or made anew with the like."""
        if name not in self.made:
            return True
        if name not in self._before:
            return False
        return all(self._is_alike(name, array) for array in self._regions[name].counters)

    def _is_alike(self, name, array):
        before = self._before[name]["counted"].get(array)
        here = self._regions[name].place(self._memory.workers)[0].get(array)
        return before is not None and here is not None and before[:3] == here.told()[:3]

    def carry_over(self):
        """Have regions made anew count on from those before them; may be repeated until a worker counts."""
        for name, old in self._counted.items():
            if name in self.gone:
                continue
            region, here = self._regions[name], self.arrays[name]
            for array in region.counters:
                if self._is_alike(name, array):
                    self._copy(name, array)
            for array, names in region.columns.items():
                known = self._before[name]["columns"].get(array, [])
                for column in set(names) & set(known):
                    values = old[array][:, known.index(column)]
                    getattr(here, array)[:, names.index(column)] = values

    def _copy(self, name, array):
        """Copy a large array without touching the pages of it that nobody has touched."""
        place = self._before[name]
        start = place["offset"] + Array.from_told(place["counted"][array]).offset
        here = self._regions[name].place(self._memory.workers)[0][array]
        move = self.entries[name].offset + here.offset - start
        begin, end = start, start + here.shape[0] * here.strides[0]
        while begin < end:
            try:
                begin = os.lseek(self._memory.fd, begin, os.SEEK_DATA)
                stop = min(os.lseek(self._memory.fd, begin, os.SEEK_HOLE), end)
            except OSError:  # ENXIO: there is none behind
                return
            if begin < stop:
                os.pwrite(self._memory.fd, os.pread(self._memory.fd, stop - begin, begin), begin + move)
            begin = stop

    def settle(self, frame_drops):
        """Count on for the last time, with no worker running; what no reason is left for, the frame counts.

        frame_drops  uint64[workers, reasons]  in/out
        """
        self.carry_over()
        for name, old in self._counted.items():
            if DROPS not in old:
                continue
            region = self._regions.get(name)
            left = set(region.columns.get(DROPS, ())) if region else set()
            for number, column in enumerate(self._before[name]["columns"].get(DROPS, [])):
                if column not in left:
                    frame_drops[0, Drop.EARLIER] += old[DROPS][:, number].sum(dtype=np.uint64)
                    old[DROPS][:, number] = 0
        self._counted = {}

    def undo(self):
        """Forget what was made: what runs goes on as it was."""
        for entry in self._new:
            self._memory.forget(entry)
        self._new = []

    def forget_before(self):
        """Forget the regions that nobody uses any more."""
        here = {entry.offset for entry in self.entries.values()}
        for entry in self._old:
            if entry.offset not in here:
                self._memory.forget(entry)
        self._old = []
