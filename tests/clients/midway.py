"""What others see of a run that is not over: at random moments, after SIGTERM, after kill -9."""
import random
import signal
import time

import expect
import folder
import with_datasets

KILLED, STOPPED, OVER = -signal.SIGKILL, 75, 3


class Night:
    """Looks at runs of one manifest in one layout at as many moments as are asked for: at a second run, where one is too short."""

    def __init__(self, nightshift, manifest, jobs, work, layout, seed):
        self.nightshift, self.manifest, self.jobs, self.layout = nightshift, manifest, jobs, layout
        self.work, self.dice, self.seen, self.ended = work, random.Random(f"{seed} {layout}"), [], []

    def check(self, moments):
        undisturbed = self.work / f"{self.layout}-undisturbed"
        self._start(undisturbed).ends_with(OVER)
        runs = 0
        while len(self.seen) < moments:
            out = self.work / f"{self.layout}-disturbed-{runs}"
            self._disturb(out, moments)
            expect.equal("SHA-256 of the files of a disturbed run", folder.hashes(out), folder.hashes(undisturbed))
            runs += 1
            expect.true(f"runs are too short: {runs} of them for {self.seen}", runs < moments)
        expect.true(f"no rows were ever seen: {self.seen}", any(self.seen))
        rows = " ".join(map(str, self.seen))
        yield f"{moments} moments of {runs} runs, {len(self.ended)} of them after SIGTERM or kill -9: {rows} rows"
        yield "files at the end of these runs: of the same SHA-256 as of one that nobody disturbed"

    def _start(self, out):
        return self.nightshift.start(self.manifest, out, self.layout, "--shard-size", "50")

    def _disturb(self, out, moments):
        process = self._start(out)
        try:
            if not self.seen:
                # The moment that matters most: there are pictures, and no shard is complete.
                while not process.is_over() and not (out.is_dir() and folder.visible(out)):
                    time.sleep(0.005)
            while len(self.seen) < moments:
                time.sleep(self.dice.uniform(0.02, 0.4))
                if process.is_over():
                    break
                if len(self.seen) % 3 == 2:
                    how, code = [("SIGTERM", STOPPED), ("SIGKILL", KILLED)][len(self.ended) % 2]
                    process.signal(getattr(signal, how))
                    # It may have been over by then.
                    if process.ends_with(code, OVER) == OVER:
                        return
                    self.ended.append(how)
                    self._look(out, how)
                    process = self._start(out)
                else:
                    process.signal(signal.SIGSTOP)
                    self._look(out, "SIGSTOP")
                    process.signal(signal.SIGCONT)
            process.ends_with(OVER)
        finally:
            process.discard()

    def _look(self, out, how):
        try:
            self.seen.append(look(out, self.layout, self.jobs) if out.is_dir() else 0)
        except Exception as error:
            files = [str(path.relative_to(out)) for path in folder.visible(out)]
            raise expect.Difference(f"after {how}, with the files {expect.shown(files)}: {error!r}") from error


def look(out, layout, jobs):
    """Returns how many rows are to be seen."""
    folder.only_ours(out, layout)
    pictures = folder.pictures(out, layout)
    if not pictures:
        expect.equal("what is visible before the first rows", folder.visible(out), [])
        return 0
    wanted = {key: jobs.by_key[key] for key in pictures}
    for call in with_datasets.ways(out, layout).values():
        features, rows = with_datasets.load(call)
        with_datasets.check_types(features, layout)
        with_datasets.check_rows(rows, wanted, pictures)
    return len(pictures)
