"""A TCP proxy that delays every response of the HTTP server behind it."""

import contextlib
import socket
import socketserver
import threading
import time


@contextlib.contextmanager
def slow_proxy(port, seconds):
    """Yields the port of a proxy of `port` on this machine that delays responses."""

    class Relay(socketserver.BaseRequestHandler):
        def handle(self):
            with socket.create_connection(("127.0.0.1", port)) as server:
                threading.Thread(target=self.answer, args=[server], daemon=True).start()
                with contextlib.suppress(OSError):
                    while data := self.request.recv(65536):
                        server.sendall(data)

        def answer(self, server):
            with contextlib.suppress(OSError):
                while data := server.recv(65536):
                    if data.startswith(b"HTTP/"):
                        time.sleep(seconds)
                    self.request.sendall(data)
                self.request.shutdown(socket.SHUT_WR)

    class Proxy(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Proxy(("127.0.0.1", 0), Relay) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield proxy.server_address[1]
        finally:
            proxy.shutdown()
