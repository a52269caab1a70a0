"""`stripe` from PyPI as a client of the payments service: URL, key and amount.

It prints the charge, or the status that refused it.
"""

import sys

import stripe

url, key, amount = sys.argv[1:]
client = stripe.StripeClient("sk_test", base_addresses={"api": url}, max_network_retries=3)
try:
    charge = client.v1.charges.create({"amount": int(amount), "currency": "eur"}, {"idempotency_key": key})
    print(charge.last_response.body)
except stripe.StripeError as error:
    if error.http_status is None:
        raise
    print("refused", error.http_status)
