# SPDX-License-Identifier: Apache-2.0
"""`python -m kumiko.bench`: Kumiko beside the attention of other libraries, in one process. `--help` says what it can do."""
