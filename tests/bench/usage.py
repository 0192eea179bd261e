"""What processes used: CPU time and the highest resident memory, of a process and everything below it, read from /proc."""
import os

TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid):
    """The process and its descendants."""
    out = [pid]
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f:
                for child in f.read().split():
                    out += tree(int(child))
    except FileNotFoundError:
        pass    # it ended while we looked
    return out


def cpu_s(pid):
    """Seconds of CPU of the tree; children that have ended count through the parent that collected them."""
    total = 0
    for p in tree(pid):
        try:
            with open(f"/proc/{p}/stat") as f:
                total += sum(int(v) for v in f.read().rsplit(")", 1)[1].split()[11:15])
        except FileNotFoundError:
            pass
    return total / TICKS


def status_mb(pid, field):
    """Megabytes of a field of /proc/PID/status, summed over the tree."""
    total = 0
    for p in tree(pid):
        try:
            with open(f"/proc/{p}/status") as f:
                total += next((int(line.split()[1]) for line in f if line.startswith(field + ":")), 0)
        except FileNotFoundError:
            pass
    return total / 1024


def resident_mb(pid):
    return status_mb(pid, "VmRSS")


def peak_mb(pid):
    """The highest resident memory since reset_peak(), or since the start. Summed over a tree it is an upper bound."""
    return status_mb(pid, "VmHWM")


def reset_peak(pid):
    for p in tree(pid):
        with open(f"/proc/{p}/clear_refs", "w") as f:
            f.write("5")


class Meter:
    """CPU of a pipeline and of its servers, from the meter's making on. Processes of the pipeline that start later count from their start."""

    def __init__(self, pipeline):
        self.pipeline = pipeline
        self.before = {pid: cpu_s(pid) for pid in (*pipeline.processes().values(), *pipeline.servers().values())}

    def used(self, pids):
        return sum(cpu_s(pid) - self.before.get(pid, 0) for pid in pids)

    def report(self, m, prefix, rows):
        """Figures of the CPU since then, in seconds for a million rows. Where the same cores do everything that is the fair comparison."""
        carriers = self.used(self.pipeline.processes().values())
        m.figure(prefix + "cpu", carriers / rows * 1e6, "s/M rows", "lower", note="CPU of agent and hub, or of the peer's processes")
        for name, pid in self.pipeline.servers().items():
            what = "PostgreSQL, source and target" if name == "postgres" else "Kafka"
            m.figure(f"{prefix}cpu_{name}", self.used([pid]) / rows * 1e6, "s/M rows", "lower", note=f"CPU of {what}, for the same rows")
