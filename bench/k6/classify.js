// Classify at a constant rate of arrivals: an open loop, so a slow answer does not slow the next request down.
//   k6 run --env TARGET=localhost:50051 --env IMAGE=$PWD/slice.jpg --env RATE=40 --env DURATION=10s bench/k6/classify.js
import encoding from "k6/encoding";
import grpc from "k6/net/grpc";
import { check } from "k6";
import { Counter } from "k6/metrics";

const target = __ENV.TARGET || "127.0.0.1:50051";
const rate = Number(__ENV.RATE || 40);
const image = encoding.b64encode(open(__ENV.IMAGE, "b"));
const wrong = new Counter("wrong_answers");
const client = new grpc.Client();
let connected = false;
let expected = null;

export const options = {
  scenarios: {
    arrivals: {
      executor: "constant-arrival-rate",
      rate: rate,
      timeUnit: "1s",
      duration: __ENV.DURATION || "10s",
      // A user that has to be made first comes too late: enough for answers that take a second.
      preAllocatedVUs: Math.max(4, rate),
      maxVUs: Math.max(16, 2 * rate),
    },
  },
  summaryTrendStats: ["min", "med", "p(90)", "p(99)", "max"],
  thresholds: { checks: ["rate>0.999"], wrong_answers: ["count==0"], dropped_iterations: ["count==0"] },
};

export default function () {
  if (!connected) {
    client.connect(target, { plaintext: true, reflect: true });
    connected = true;
  }
  const reply = client.invoke("neurogate.v1.ClassificationService/Classify", { image: image });
  const answered = check(reply, { "status is OK": (found) => found && found.status === grpc.StatusOK });
  if (answered) {
    const best = reply.message.classification.scores[0];
    const found = best.classId + " " + best.probability.toFixed(3) + " of version " + reply.message.model.version;
    // A user sends the same picture every time, so the first answer is the right one.
    expected = expected || found;
    if (found !== expected) wrong.add(1);
  }
}
