"""A real S3 server on loopback (moto), and a proxy before it that fails as networks and buckets do."""
import http.client
import logging
import random
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from moto.server import ThreadedMotoServer

# A part that a killed client had sent may arrive after its upload was given up: moto raises then, where S3 answers 404.
logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
logging.getLogger("moto").setLevel(logging.CRITICAL)
BUCKET = "night"


class Server:
    """The server, and a client that looks into it without the proxy."""

    def __init__(self):
        self.moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.moto.start()
        host, port = self.moto.get_host_and_port()
        self.address = (host, port)
        self.s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
                               aws_access_key_id="x", aws_secret_access_key="x")
        self.s3.create_bucket(Bucket=BUCKET)

    def objects(self, prefix):
        """Name below the prefix → bytes, of all objects."""
        found = {}
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/"):
            for entry in page.get("Contents", []):
                found[entry["Key"].removeprefix(f"{prefix}/")] = self.get(entry["Key"])
        return found

    def get(self, key):
        return self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def names(self, prefix):
        found = []
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/"):
            found += [entry["Key"].removeprefix(f"{prefix}/") for entry in page.get("Contents", [])]
        return found

    def in_parts(self):
        """Uploads in parts that are neither complete nor given up."""
        return self.s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])


class Proxy:
    """Forwards requests; a share `faults` of them goes wrong, in one of five ways. `down` refuses all."""

    def __init__(self, server, seed=0, faults=0.0):
        self.server, self.faults, self.down, self.slow_parts = server, faults, False, 0.0
        self.dice, self.lock = random.Random(seed), threading.Lock()
        self.count, self.faulty, self.puts = 0, 0, []
        # Parts that were sent to us, be they forwarded or not.
        self.parts = 0
        # Uploads in parts that were begun and whose name nobody was told: only the bucket's own rules can end them.
        self.unknown = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                proxy.handle(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        # Clients that are killed.
        self.http.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def handle(self, request):
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self.lock:
            self.count += 1
            fault = self.dice.choice(["500", "503", "lost", "cut", "slow"]) if self.dice.random() < self.faults else None
            self.faulty += fault is not None
        if self.down:
            return self.hang_up(request)
        if fault == "cut":
            return self.hang_up(request)
        if fault in ["500", "503"]:
            return self.answer(request, int(fault), {}, b"<Error><Code>InternalError</Code></Error>")
        if "partNumber=" in request.path:
            self.parts += 1
            time.sleep(self.slow_parts)
        if fault == "slow":
            time.sleep(1.0)
        status, headers, answer = self.forward(request, body)
        if fault == "lost":  # it was done, and nobody is told
            if request.path.endswith("?uploads"):
                self.unknown += 1
            return self.hang_up(request)
        if request.command == "PUT" and status == 200:
            with self.lock:
                self.puts.append((request.path.split("?")[0], len(body)))
        self.answer(request, status, headers, answer)

    def forward(self, request, body):
        connection = http.client.HTTPConnection(*self.server.address, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
        connection.request(request.command, request.path, body, headers)
        response = connection.getresponse()
        data = response.read()
        kept = {name: value for name, value in response.getheaders()
                if name.lower() not in ["connection", "transfer-encoding", "content-length", "date", "server"]}
        kept["X-Length"] = response.getheader("Content-Length") or str(len(data))
        connection.close()
        return response.status, kept, data

    @staticmethod
    def answer(request, status, headers, data):
        length = headers.pop("X-Length", str(len(data)))
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", length if request.command == "HEAD" else str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    @staticmethod
    def hang_up(request):
        request.close_connection = True
        request.connection.shutdown(socket.SHUT_RDWR)
