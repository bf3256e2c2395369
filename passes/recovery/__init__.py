# SPDX-License-Identifier: Apache-2.0
"""What `recover` is made of; the files that train import torch."""
