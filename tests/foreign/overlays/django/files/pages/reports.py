import json

from sentry_sdk.transport import Transport


class FileTransport(Transport):
    """Writes into a file what would be sent to Sentry: one line for each error or transaction."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def capture_envelope(self, envelope):
        for item in envelope.items:
            event = item.get_event() or item.get_transaction_event()
            if event is None:
                continue
            errors = [error["type"] for error in event.get("exception", {}).get("values", ())]
            line = {"errors": errors, "url": event["request"]["url"], "transaction": event["transaction"]}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
