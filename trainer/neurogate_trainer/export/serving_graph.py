"""The graph that is served: uint8 images in, four outputs, batch normalisations folded, weights frozen."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from neurogate_core.manifest import MANIFEST_FILE
from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.saved_model import fingerprinting_utils

from neurogate_trainer.evaluation.ood import FeatureDistance, energy, taps
from neurogate_trainer.model.evidence import Evidence
from neurogate_trainer.model.fold_batch_norm import fold_batch_norms
from neurogate_trainer.model.network import LOGITS

OUTPUTS = ("gradcam", "logits", "ood_score", "probabilities")


def save_serving_graph(
    model: keras.Model, target: Path, *, temperature: float, distance: FeatureDistance | None
) -> None:
    """Writes a SavedModel with the signatures "serving_default" and "describe".

    probabilities = softmax(logits / temperature). A `distance` of None stands for the energy score.

    serving_default: images uint8 [N, H, W, 3] -> probabilities, logits f32 [N, C], gradcam f32 [N, G, G, C]
    (the maps of `evidence`), ood_score f32 [N]. describe: index int32 [N] -> manifest string [N], read at
    every call from the asset that `write_manifest` replaces. Equal weights give equal bytes.
    """
    module = tf.Module()
    module.serve = _serve(fold_batch_norms(model), temperature, distance)
    manifest = target / MANIFEST_FILE
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_bytes(b"")
    module.manifest = tf.saved_model.Asset(str(manifest))
    module.describe = _describe(module.manifest)
    tf.saved_model.save(
        module,
        str(target),
        signatures={"serving_default": module.serve, "describe": module.describe},
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    _part_outputs(target / "saved_model.pb")
    fingerprinting_utils.write_fingerprint(str(target))
    _fix_fingerprint(target / "fingerprint.pb")


def _serve(folded: keras.Model, temperature: float, distance: FeatureDistance | None) -> Any:  # noqa: ANN401
    evidence = Evidence(folded)
    wanted = {name: folded.get_layer(name).output for name in evidence.needs}
    tapped = taps(folded, distance.method) if distance is not None else folded.output
    # Its name is in that of every operation.
    network = keras.Model(folded.inputs, [wanted, tapped], name="net")
    side = folded.input_shape[1]
    signature = [tf.TensorSpec([None, side, side, 3], tf.uint8, name="images")]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def compute(images: Any) -> dict[str, Any]:  # noqa: ANN401 - tensorflow carries no types
        outputs, features = network(tf.cast(images, tf.float32), training=False)
        logits = outputs[LOGITS]
        return {
            "gradcam": evidence(outputs),
            "logits": logits,
            "ood_score": distance(features) if distance is not None else energy(logits),
            "probabilities": tf.nn.softmax(logits / temperature),
        }

    # Constants let the runtime prepare each kernel once instead of at every call.
    frozen = convert_variables_to_constants_v2(compute.get_concrete_function())
    graph = frozen.graph.as_graph_def()
    # The conversion leaves the nodes in an order that differs from process to process.
    nodes = sorted(graph.node, key=lambda node: str(node.name))
    del graph.node[:]
    graph.node.extend(nodes)
    entry = frozen.inputs[0].name
    results = [tensor.name for tensor in frozen.outputs]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def serve(images: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
        values = tf.graph_util.import_graph_def(
            graph, input_map={entry: images}, return_elements=results, name=""
        )
        return dict(zip(OUTPUTS, values, strict=True))

    return serve


def _describe(asset: Any) -> Any:  # noqa: ANN401
    # An input, though nothing depends on its value: with batching on, TensorFlow Serving wants one.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="index")])  # type: ignore[untyped-decorator]
    def describe(index: Any) -> dict[str, Any]:  # noqa: ANN401
        return {"manifest": tf.fill(tf.shape(index), tf.io.read_file(asset.asset_path))}

    return describe


def _part_outputs(path: Path) -> None:
    """Gives each output a node of its own, so that a server can leave out what nobody asks for.

    As `tf.saved_model.save` writes them, the outputs are those of one function call. A call that is fetched
    itself is run as a whole; behind another node the runtime takes it apart and drops what leads nowhere.
    """
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (meta_graph,) = saved.meta_graphs
    for key, signature in sorted(meta_graph.signature_def.items()):
        for alias, output in sorted(signature.outputs.items()):
            if alias in OUTPUTS:
                node = meta_graph.graph_def.node.add(
                    name=f"{key}_{alias}", op="Identity", input=[output.name]
                )
                node.attr["T"].type = output.dtype
                output.name = f"{node.name}:0"
    path.write_bytes(saved.SerializeToString(deterministic=True))


def _fix_fingerprint(path: Path) -> None:
    """Replaces the fingerprint's random identifier by one of the content, so that equal models are equal."""
    fingerprint = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    fingerprint.uuid = ""
    content = fingerprint.SerializeToString(deterministic=True)
    fingerprint.uuid = str(int.from_bytes(hashlib.sha256(content).digest()[:16]))
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))
