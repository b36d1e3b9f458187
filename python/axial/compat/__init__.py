# SPDX-License-Identifier: Apache-2.0
"""Other projects' names for what Axial does, so that their users change one import."""
