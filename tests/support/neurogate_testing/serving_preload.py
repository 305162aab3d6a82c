"""What the fork server imports before it forks model servers: what the command itself would import."""

from neurogate_model_server.tensorflow_runtime import load_bindings, use_bare_tensorflow

use_bare_tensorflow()
load_bindings()

import neurogate_model_server.server  # noqa: E402, F401  (only once the run time is chosen)
