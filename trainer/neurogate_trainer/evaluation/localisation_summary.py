"""What `metrics.json` says under "localisation", and the manifest's summary of it.

    lesions   null where no test image has a mask, else what was measured on the right answers to images with
              a lesion, always with the map of the class that was named:
        images          how many; of `of` test images with a lesion
        pointing        E, share whose maximum lies within the lesion grown by 5 % of the side
        strict          E, share whose maximum lies within the lesion
        energy          E, mean share of the map that lies within the lesion
        baselines       {centre, head_centre, brightest_spot}: E, `pointing` of these places instead
        control         null, or {class_id, pointing, strict, energy}: the same images with the map of the one
                        class that has no lesion in any test image. The less it points, the more the map is
                        about the class and not only about what is conspicuous
        per_class       [{class_id, images, pointing, strict, energy}]
    deletion  does the answer change when the strongest 5 % of the map are blurred away? Over the same images;
              where there are no masks, over all right answers:
        images          how many
        changed         E, share of answers that change
        random_disc     E, the same with as large a disc at a random place of the head
        per_class       [{class_id, images, changed, random_disc}], over all right answers

E as in `neurogate_trainer.evaluation.metrics`, undefined where there is no image. Of more than
1,000 right answers 1,000 are measured, spread over the test split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from neurogate.v1 import manifest_pb2

from .metrics import Json

SCORES: Final = ("pointing", "strict", "energy")


def localisation_message(metrics: Json) -> manifest_pb2.Localisation:
    """The manifest's summary."""
    lesions, deletion = metrics["lesions"], metrics["deletion"]
    result = manifest_pb2.Localisation(deletion_support=deletion["images"])
    _set_estimates(result, {"deletion": deletion["changed"], "random_disc": deletion["random_disc"]})
    for row in deletion["per_class"]:
        each = result.per_class.add(class_id=row["class_id"], deletion_support=row["images"])
        _set_estimates(each, {"deletion": row["changed"], "random_disc": row["random_disc"]})
    if lesions is None:
        return result
    result.support = lesions["images"]
    _set_estimates(result, {name: lesions[name] for name in SCORES} | lesions["baselines"])
    if lesions["control"] is not None:
        result.control_class_id = lesions["control"]["class_id"]
        _set_estimates(result, {"control": lesions["control"]["pointing"]})
    by_class = {row["class_id"]: row for row in lesions["per_class"]}
    for each in result.per_class:
        if row := by_class.get(each.class_id):
            each.support = row["images"]
            _set_estimates(each, {name: row[name] for name in SCORES})
    return result


def _set_estimates(
    message: manifest_pb2.Localisation | manifest_pb2.ClassLocalisation, shares: Mapping[str, Json]
) -> None:
    for name, share in shares.items():
        if share["value"] is not None:
            getattr(message, name).CopyFrom(manifest_pb2.Estimate(**share))
