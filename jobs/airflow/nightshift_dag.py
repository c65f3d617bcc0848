"""Pictures as a task of Airflow 3: every night at 19:00, the rows of one manifest.

The same command goes on where the last try stopped, so `retries` is all it takes. Of nightshift's exit codes none is 99, which
BashOperator takes for "skipped". When the task is stopped, BashOperator sends SIGTERM to the process, and nightshift finishes what is
under way; `exec` keeps the shell from standing in between.
"""
from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("nightshift", schedule="0 19 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1):
    BashOperator(
        task_id="pictures",
        bash_command="exec nightshift run $MANIFEST --model $MODEL --out $OUT --max-failed 1% --json",
        env={
            "MANIFEST": "{{ var.value.get('nightshift_manifest', '/data/cats.csv') }}",
            "MODEL": "{{ var.value.get('nightshift_model', '/models/sdxl') }}",
            "OUT": "{{ var.value.get('nightshift_out', '/data/out/cats') }}",
        },
        append_env=True,
        retries=5,
        retry_delay=timedelta(minutes=2),
        # The last line of standard output, the summary as JSON, is what the next task gets.
        do_xcom_push=True,
    )
