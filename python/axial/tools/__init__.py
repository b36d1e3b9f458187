# SPDX-License-Identifier: Apache-2.0
"""Programs around Axial that need Python: converters of foreign checkpoints."""
