import logging, pytest, uuid
from actors.storage import *
def test_x(s3_bucket, caplog, tmp_path):
    def run(f):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "s3fs"):
            try: r=f()
            except Exception as e: r=f"{type(e).__name__}: {e}"
        calls=[r_.getMessage().split(" - ")[0][:60] for r_ in caplog.records if "CALL" in r_.getMessage()]
        print(str(r)[:200], "|", calls)
    write_atomically(s3_bucket+"/clips/a.json", b"{}", content_type="application/json")
    run(lambda: list_names(s3_bucket+"/clips"))
    run(lambda: list_names(s3_bucket+"/nope"))
    run(lambda: list_sizes(s3_bucket+"/clips"))
    run(lambda: list_sizes(s3_bucket+"/nope"))
    run(lambda: exists(s3_bucket+"/nope"))
    run(lambda: exists("s3://nope-"+uuid.uuid4().hex+"/x"))
    run(lambda: read_bytes(s3_bucket+"/nope"))
    run(lambda: read_bytes(s3_bucket+"/clips"))
    run(lambda: read_bytes(str(tmp_path)))
    run(lambda: read_bytes("gs://a/b"))
    run(lambda: read_bytes("http://127.0.0.1:9/b"))
    run(lambda: list_names("s3://nope-"+uuid.uuid4().hex+"/x"))
    run(lambda: list_sizes("s3://Bad_Bucket!!/x"))
    run(lambda: exists("s3://Bad_Bucket!!/x"))
    run(lambda: read_range(s3_bucket+"/clips/a.json", 50, 60))
    run(lambda: local_copy(s3_bucket, tmp_path))
    run(lambda: write_atomically("/proc/x/y", b""))
