"""Samples, tables, limits, JSON."""

import os
import platform
import shlex
import statistics
import time


class Samples:
    """Repeated measurements of one thing, in a base unit (ns, bytes, instructions)."""

    def __init__(self, values):
        self.values = list(values)
        self.median = statistics.median(self.values)

    def spread(self):
        """The middle half of the samples, which one slow run does not move."""
        if len(self.values) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def as_json(self):
        return {"median": self.median, "quartiles": self.spread(), "min": min(self.values), "max": max(self.values),
                "samples": self.values}


def middle_ratio(ours, theirs):
    """The median of the ratios of measurements that were taken in pairs."""
    return statistics.median(a / b for a, b in zip(ours, theirs))


class Unit:
    def __init__(self, name, divisor, digits):
        self.name, self.divisor, self.digits = name, divisor, digits

    def text(self, value):
        return f"{value / self.divisor:.{self.digits}f}"


MS = Unit("ms", 1e6, 2)
US = Unit("µs", 1e3, 2)
S = Unit("s", 1e9, 2)
MIB = Unit("MiB", 1 << 20, 2)
COUNT = Unit("", 1, 0)


class Report:
    def __init__(self, argv):
        self.argv = argv
        self.tables = []
        self.limits = []
        self.about = {}

    def table(self, key, title, unit, again, notes=()):
        """A new table: `again` is the command that prints it again."""
        table = Table(self, key, title, unit, again, list(notes))
        self.tables.append(table)
        return table

    def over(self):
        return [limit for limit in self.limits if not limit["within"]]

    def finish(self, context):
        with open("/proc/loadavg") as file:
            load = file.read().split()[0]
        self.about = {"command": "tools/bench " + shlex.join(self.argv), "minivmm": context.vmm,
                      "date": time.strftime("%Y-%m-%d %H:%M:%S"), "machine": f"{os.cpu_count()} CPUs, "
                      f"Linux {platform.release()}", "load average at the end": load, **self.about}

    def as_json(self):
        return {"about": self.about, "tables": {table.key: table.as_json() for table in self.tables}}

    def print_tables(self):
        for table in self.tables:
            table.print()
        print("\n".join(f"{key}: {value}" for key, value in self.about.items()))
        over = self.over()
        print("every limit is kept" if not over else
              f"{len(over)} of {len(self.limits)} limits missed: " + "; ".join(limit["text"] for limit in over))


class Table:
    def __init__(self, report, key, title, unit, again, notes):
        self.report, self.key, self.title, self.unit, self.again, self.notes = report, key, title, unit, again, notes
        self.rows = []       # (name, Samples)
        self.limits = []
        self.commands = {}
        self.extra = {}

    def row(self, name, values, command=None):
        self.rows.append((name, Samples(values)))
        if command is not None:
            self.commands[name] = shlex.join(command)
        return self.rows[-1][1]

    def limit(self, what, measured, allowed, unit):
        """`measured` must be at most `allowed`; both in the text's own unit."""
        self._limit(what, measured, allowed, unit, measured <= allowed, f"limit {allowed:g}{unit}")

    def at_least(self, what, measured, wanted, unit):
        self._limit(what, measured, wanted, unit, measured >= wanted, f"at least {wanted:g}{unit}")

    def _limit(self, what, measured, allowed, unit, within, words):
        text = f"{what}: {measured:.2f}{unit} ({words})"
        limit = {"what": what, "measured": measured, "limit": allowed, "unit": unit.strip(), "within": within,
                 "text": text}
        self.limits.append(limit)
        self.report.limits.append(limit)

    def as_json(self):
        return {"title": self.title, "again": self.again, "commands": self.commands, "notes": self.notes,
                "rows": {name: samples.as_json() for name, samples in self.rows}, "limits": self.limits, **self.extra}

    def print(self):
        name = f" ({self.unit.name})" if self.unit.name else ""
        print(f"{self.title}{name}")
        width = max(len(row[0]) for row in self.rows)
        if all(len(samples.values) == 1 for _, samples in self.rows):
            for row, samples in self.rows:
                print(f"  {row:{width}}  {self.unit.text(samples.median):>10}")
        else:
            self._print_samples(width)
        for limit in self.limits:
            print(f"  {'ok  ' if limit['within'] else 'MISS'} {limit['text']}")
        for note in self.notes:
            print(f"  {note}")
        print(f"  again: {self.again}\n")

    def _print_samples(self, width):
        print(f"  {'':{width}}  {'median':>10}  {'middle half':>19}  {'min':>10}  {'max':>10}  {'n':>3}")
        for row, samples in self.rows:
            low, high = samples.spread()
            text = self.unit.text
            half = f"{text(low)} .. {text(high)}"
            print(f"  {row:{width}}  {text(samples.median):>10}  {half:>19}  {text(min(samples.values)):>10}  "
                  f"{text(max(samples.values)):>10}  {len(samples.values):>3}")
