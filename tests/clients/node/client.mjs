// `stripe` from npm as a client of the payments service: URL, key and amount. It prints the charge, or the status that
// refused it.

import Stripe from "stripe";

const [url, key, amount] = process.argv.slice(2);
const { hostname: host, port } = new URL(url);
const client = new Stripe("sk_test", { host, port, protocol: "http", maxNetworkRetries: 3, telemetry: false });
try {
  const charge = await client.charges.create({ amount: Number(amount), currency: "eur" }, { idempotencyKey: key });
  console.log(JSON.stringify(charge));
} catch (error) {
  if (!error.statusCode) throw error;
  console.log("refused", error.statusCode);
}
// An answer that was retried is never read, and its connection would keep the process alive.
process.exit();
