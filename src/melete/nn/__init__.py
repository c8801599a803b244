"""The arithmetic that models share. No model has its name in here.

Tensor letters, used in every shape comment of the package:

    B  batch (rows)          H  attention heads (Hkv: key-value heads)
    T  query positions       K  width of one head
    S  key positions         F  feed-forward width
    D  model width           V  vocabulary
    N  items of any kind     M  masked positions
"""
