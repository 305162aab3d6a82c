"""What the phantom's folder says about itself to whoever finds it."""

README = """\
Neurogate phantom: NOT patient data
===================================

These pictures look like brain MRI slices and are not. Every one is cut from one averaged template of
healthy brains (MNI ICBM 152, T1, 1 mm), put into a made-up skull, and, except in the class "notumor", given
a synthetic lesion drawn by a formula. They exist so that Neurogate can be demonstrated and tested without a
network and without anybody's data. A model trained on them knows nothing about patients, and its accuracy
here says nothing about its accuracy on real images. Do not mix them with real data.

  Training/<class>/*.jpg, Testing/<class>/*.jpg   512 x 512 gray JPEG, unless another size was asked for
  .neurogate/masks/<split>/<class>/*.png          where the lesion is, without oedema or dural tail
  manifest.csv                                    what each picture shows, its seed, its SHA-256
  phantom.json                                    the settings; the same settings give the same pictures

All pictures come from the same template, so there is no "source volume" or "patient" to group them by.

Template: ICBM 152 Nonlinear Atlases (2009), Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging
Centre, Montreal Neurological Institute, McGill University; used as shipped in nilearn (BSD 3-Clause,
Copyright (c) The nilearn developers).
V. S. Fonov, A. C. Evans, K. Botteron, C. R. Almli, R. C. McKinstry, D. L. Collins and the Brain Development
Cooperative Group, "Unbiased average age-appropriate atlases for pediatric studies", NeuroImage 54 (2011).
"""
