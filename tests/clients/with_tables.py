"""pandas and pyarrow on the Parquet files of both layouts that have some."""
import pandas
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

import expect
import folder
import jobs

ARROW = {"string": pyarrow.string(), "int32": pyarrow.int32(), "int64": pyarrow.int64(), "double": pyarrow.float64()}


def check(out, layout, wanted):
    shards = folder.shards(out, layout)
    columns = {name: ARROW[kind] for name, kind in jobs.COLUMNS.items()}
    if layout == "parquet":
        del columns["file_name"]
        image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        columns = {"image": image, **columns}
    for shard in shards:
        schema = pyarrow.parquet.read_schema(shard)
        expect.equal(f"{shard.name}: types", dict(zip(schema.names, schema.types)), columns)
    check_frame(pandas.concat(map(pandas.read_parquet, shards)), wanted)
    yield f"pandas.read_parquet: {len(wanted)} rows of {len(shards)} files"
    if layout == "parquet":
        check_frame(pandas.read_parquet(out / "data"), wanted)
        yield "pandas.read_parquet('OUT/data'): the same"
    table = pyarrow.dataset.dataset([str(shard) for shard in shards]).to_table()
    expect.equal("rows of pyarrow.dataset", sorted(table["key"].to_pylist()), sorted(wanted))
    expect.equal("nulls", [name for name in table.column_names if table[name].null_count], [])
    yield f"pyarrow.dataset: {table.num_rows} rows, no nulls, {len(columns)} columns of the same types in each file"


def check_frame(frame, wanted):
    expect.equal("number of rows", len(frame), len(wanted))
    expect.equal("cells that are nothing", int(frame.isna().sum().sum()), 0)
    for row in frame.to_dict("records"):
        for name, value in wanted[row["key"]].values().items():
            expect.equal(f"{row['key']}: {name}", row[name], value)
