"""What the fork server imports before it forks model servers: what the command itself would import."""

from neurogate_serving.embedded.runtime import use_bare_tensorflow

use_bare_tensorflow()

import neurogate_serving.embedded.server  # noqa: E402, F401  (only once the run time is chosen)
