#!/usr/bin/env python3
"""Traffic of an application that nobody here wrote: MLflow's own client and store, on PostgreSQL. Run by test_application.py with the interpreter of
tests/services/mlflow.sh, once for the old version and, after its upgrade of the database, for the new one.

usage: mlflow_traffic.py tables                              prints the tables of this version
usage: mlflow_traffic.py upgrade URI
usage: mlflow_traffic.py work URI SEED WORKERS ROUNDS        prints what was done, how often"""
import logging
import os
import random
import sys
import threading

os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"

import sqlalchemy  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, TraceInfo, TraceLocation, TraceState, ViewType  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.store.db.base_sql_model import Base  # noqa: E402
from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine  # noqa: E402
from mlflow.tracking._tracking_service.utils import _get_store  # noqa: E402

logging.disable(logging.INFO)


class Worker(threading.Thread):
    """A person with experiments, runs and models, of which some are shared with the others."""

    def __init__(self, uri, seed, number, rounds):
        super().__init__()
        self.uri, self.r, self.number, self.rounds = uri, random.Random(f"{seed} {number}"), number, rounds
        self.client, self.error, self.done, self.lost = MlflowClient(tracking_uri=uri, registry_uri=uri), None, {}, 0

    def run(self):
        try:
            self.name = f"w{self.number}-{self.r.getrandbits(48):x}"
            self.experiment = self.client.create_experiment(self.name, artifact_location="/nowhere/" + self.name)
            moves = [m for m in dir(self) if m.startswith("do_")]
            for i in range(self.rounds):
                move = moves[i % len(moves)] if i < len(moves) else self.r.choice(moves)
                self.once(move)
        except BaseException as e:  # noqa: BLE001 - told at the end
            self.error = e

    def once(self, move):
        try:
            getattr(self, move)()
            self.done[move] = self.done.get(move, 0) + 1
        except (MlflowException, sqlalchemy.exc.DBAPIError):
            # what two workers do at once to the same model or tag may conflict: the application's own affair
            self.lost += 1

    def some_run(self):
        runs = self.client.search_runs([self.experiment], max_results=20)
        return self.r.choice(runs).info.run_id if runs else self.new_run()

    def new_run(self):
        return self.client.create_run(self.experiment, tags={"mlflow.runName": f"lauf {self.r.randrange(999)} – ü", "mlflow.user": "someone"}).info.run_id

    def do_run(self):
        run = self.new_run()
        self.client.log_batch(run, metrics=[Metric(f"m{i % 5}", self.r.choice((self.r.random(), float("nan"), float("inf"), -1e-300)), 1700000000000 + i, i // 5) for i in range(60)],
                              params=[Param(f"p{i}", str(self.r.random())) for i in range(20)], tags=[RunTag(f"t{i}", "x" * self.r.randrange(1, 5000)) for i in range(5)])
        self.client.set_terminated(run, self.r.choice(("FINISHED", "FAILED", "KILLED")))

    def do_metrics(self):
        run = self.some_run()
        for step in range(10):
            self.client.log_metric(run, "loss", self.r.random(), step=step)

    def do_params_and_tags(self):
        run = self.some_run()
        self.client.log_param(run, f"late{self.r.randrange(10 ** 6)}", "x" * 500)
        self.client.set_tag(run, "note", "line\nline\t\\ '\"")
        self.client.set_tag(run, "note", "again")
        if self.r.random() < 0.5:
            self.client.delete_tag(run, "note")

    def do_delete_and_restore(self):
        run = self.some_run()
        self.client.delete_run(run)
        if self.r.random() < 0.6:
            self.client.restore_run(run)

    def do_collect_garbage(self):
        gone = self.client.search_runs([self.experiment], run_view_type=ViewType.DELETED_ONLY)
        for run in gone[:3]:
            _get_store(self.uri)._hard_delete_run(run.info.run_id)     # what `mlflow gc` does

    def do_experiments(self):
        name = f"{self.name}-{self.r.randrange(10 ** 9)}"
        e = self.client.create_experiment(name, tags={"k": "v"})
        self.client.rename_experiment(e, name + " renamed")
        self.client.set_experiment_tag(e, "k", "w")
        self.client.delete_experiment(e)
        if self.r.random() < 0.5:
            self.client.restore_experiment(e)

    def do_inputs(self):
        self.client.log_inputs(self.some_run(), [DatasetInput(Dataset(f"d{i}", str(self.r.randrange(50)), "local", "s" * 2000, "{}"), [InputTag("mlflow.data.context", "train")]) for i in range(3)])

    def do_registry(self):
        name = f"model {self.r.randrange(6)}"          # shared by all workers
        try:
            self.client.create_registered_model(name, tags={"team": "a"}, description="d")
        except MlflowException:
            self.client.update_registered_model(name, f"described {self.r.randrange(99)}")
        version = self.client.create_model_version(name, "/nowhere", run_id=self.some_run(), tags={"t": "1"}, description="x" * 3000).version
        self.client.set_registered_model_alias(name, self.r.choice(("champion", "challenger")), version)
        self.client.set_model_version_tag(name, version, "t", "2")
        if self.r.random() < 0.4:
            self.client.transition_model_version_stage(name, version, "Production", archive_existing_versions=True)
        if self.r.random() < 0.3:
            self.client.delete_model_version(name, version)
        if self.r.random() < 0.1:
            self.client.delete_registered_model(name)

    def do_rename_model(self):
        name = f"{self.name} {self.r.randrange(10 ** 9)}"
        self.client.create_registered_model(name, tags={"a": "b"})
        self.client.create_model_version(name, "/nowhere")
        self.client.rename_registered_model(name, name + " renamed")     # a key that others refer to

    def do_traces(self):
        store, name = _get_store(self.uri), f"tr-{self.r.getrandbits(64):x}"
        store.start_trace(TraceInfo(name, TraceLocation.from_experiment_id(self.experiment), 1700000000000, TraceState.IN_PROGRESS, tags={"a": "b"}, trace_metadata={"q": "é" * 200}))
        store.set_trace_tag(name, "seen", "yes")
        if self.r.random() < 0.3:
            store.delete_trace_tag(name, "seen")
        if self.r.random() < 0.3:
            self.client.delete_traces(self.experiment, trace_ids=[name])

    def do_logged_models(self):
        model = self.client.create_logged_model(self.experiment, name=f"m{self.r.randrange(99)}", params={"lr": "0.1"}, tags={"a": "b"})
        self.client.set_logged_model_tags(model.model_id, {"a": "c"})
        self.client.finalize_logged_model(model.model_id, "READY")
        if self.r.random() < 0.3:
            self.client.delete_logged_model(model.model_id)

    def do_datasets(self):
        """Of newer versions only."""
        if not hasattr(_get_store(self.uri), "upsert_dataset_records"):
            return
        dataset = self.client.create_dataset(name=f"set {self.r.randrange(10 ** 9)}", experiment_id=[self.experiment], tags={"a": "b"})
        _get_store(self.uri).upsert_dataset_records(dataset.dataset_id, [{"inputs": {"q": i}, "expectations": {"a": str(i)}} for i in range(20)])
        if self.r.random() < 0.4:
            self.client.delete_dataset(dataset.dataset_id)

    def do_scorers(self):
        if not hasattr(_get_store(self.uri), "register_scorer"):
            return
        name = f"scorer {self.r.randrange(4)}"
        _get_store(self.uri).register_scorer(self.experiment, name, '{"name": "x"}')
        if self.r.random() < 0.3:
            _get_store(self.uri).delete_scorer(self.experiment, name)


def main():
    if sys.argv[1] == "tables":
        print(*sorted([*Base.metadata.tables, "alembic_version"]))
        return
    uri = sys.argv[2]
    if sys.argv[1] == "upgrade":
        _upgrade_db(create_sqlalchemy_engine(uri))
        return
    seed, workers, rounds = (int(a) for a in sys.argv[3:6])
    MlflowClient(tracking_uri=uri).search_experiments()      # an empty database gets its tables
    crew = [Worker(uri, seed, i, rounds) for i in range(workers)]
    for w in crew:
        w.start()
    for w in crew:
        w.join()
    done = {}
    for w in crew:
        if w.error:
            raise w.error
        for move, n in w.done.items():
            done[move] = done.get(move, 0) + n
    print(" ".join(f"{m[3:]}={n}" for m, n in sorted(done.items())), f"conflicts={sum(w.lost for w in crew)}")
    never = [m for m in dir(Worker) if m.startswith("do_") and m not in done]
    if never:
        sys.exit("never done: " + " ".join(never))


if __name__ == "__main__":
    main()
