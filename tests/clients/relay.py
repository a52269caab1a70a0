"""Makes charges of svix's messages, as a gateway does: it turns the payload into a form, and the
charge into a payload. Key, status and headers pass as they are. Where the service hangs up, the
relay hangs up too. While none listens, it waits for one, as gateways do.
"""

import json
import time
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlencode

HOP_BY_HOP = {"connection", "content-length", "date", "transfer-encoding"}


PATIENCE = 10  # seconds


def connected(address):
    start = time.monotonic()
    while True:
        try:
            service = HTTPConnection(address)
            service.connect()
            return service
        except ConnectionRefusedError:
            if time.monotonic() - start > PATIENCE:
                raise
            time.sleep(0.01)


def relay_to(address):
    """A relay on loopback, not yet serving, to the service at this address."""

    class Relay(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            message = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {
                "content-type": "application/x-www-form-urlencoded",
                "idempotency-key": self.headers["idempotency-key"],
            }
            try:
                service = connected(address)
                service.request("POST", "/v1/charges", urlencode(message["payload"]), headers)
                answer = service.getresponse()
                body = answer.read()
            except (OSError, HTTPException):
                self.close_connection = True
                return
            if answer.status < 300:
                charge = json.loads(body)
                made = {"id": charge["id"], "eventType": message["eventType"], "timestamp": "2026-01-01T00:00:00Z"}
                body = json.dumps(made | {"payload": charge}).encode()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Relay)
