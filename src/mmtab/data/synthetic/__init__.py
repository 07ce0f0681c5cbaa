"""A made-up product catalogue whose best reachable score is known for every subset of the modalities.

It ships with mmtab, as the default dataset and as an instrument: no modality alone suffices, all four
together nearly do, and the distance of a model to `ceilings` says which modality it fails to use.

**product_type** (k-way, accuracy). A type is four independent, uniform attributes, one to a modality: the
silhouette in the image (4 shapes), words in the text (3 uses), the band of the weight (2), the line of the
department (2); 48 types in all. A channel shows the true value with probability `reliability`, else one of
the others; with probability `missing` all cells that carry it are missing. At times the text also names
the shape, so modalities overlap. Colour, pattern, brand, model name, price and length say nothing of the
type.

**price** (regression, R²). The price of a product is what it is worth, times lognormal noise that nothing tells
(`price_noise`). Its worth is a product of five factors: of the silhouette, of the use, of the line, of the band
of the weight and of the place of the weight in its band. The first four are seen as in product_type; the place is
right whenever there is a weight. No text names the shape, and no column holds a price.

**duplicates**, **variants** (matching, F1). A product has a type, brand, model name, pattern, weight, base
length and base price; an offer is a product in a colour and a size, described and photographed anew.
Duplicates agree in product, colour and size; variants agree in product, whatever the colour and size. A
pair that does not match differs in one or two aspects, one to a modality:

    modality      duplicates             variants
    image         other colour           other pattern
    text          other model name       other model name
    numeric       other size (length)    other weight
    categorical   other brand            other brand

A channel shows the true relation (same, differs) with probability `reliability`, else the opposite; it is
missing if either side lacks it. All else that two rows show is drawn the same way for every pair, and a
record belongs to one pair only, so nothing else tells the label.

**offers** (matching, mean F1 of two relations). Each pair has both labels: `duplicate` (same product, colour
and size) and `variant` (same product). It is a duplicate, or a variant only (the offers differ in colour, in
size or in both), or of two products, which then differ as they do in **variants**. Offers of two products
differ in colour and size as often as offers of one, so these two facts tell nothing of the product. The image
shows two facts, pattern and colour, and the numbers show two, weight and size; each is right with the
channel's `reliability`, independently, and they are missing together. `entities.parquet` holds the truth: two
records are the same under a relation if that column is equal.

`ceilings` sums over all combinations of these signals. With the default recipe:

    modalities                       product_type  duplicates, variants  offers  price
    image                            0.081         0.544                 0.649   0.218
    text                             0.104         0.545                 0.606   0.190
    numeric                          0.041         0.545                 0.651   0.273
    categorical                      0.041         0.545                 0.606   0.187
    image+text                       0.239         0.648                 0.730   0.417
    image+numeric                    0.160         0.648                 0.761   0.503
    image+categorical                0.160         0.648                 0.730   0.413
    text+numeric                     0.204         0.649                 0.733   0.474
    text+categorical                 0.204         0.649                 0.685   0.385
    numeric+categorical              0.080         0.649                 0.733   0.471
    image+text+numeric               0.470         0.778                 0.851   0.713
    image+text+categorical           0.470         0.778                 0.820   0.620
    image+numeric+categorical        0.313         0.778                 0.851   0.709
    text+numeric+categorical         0.401         0.781                 0.823   0.679
    image+text+numeric+categorical   0.924         0.942                 0.949   0.927

Of offers, with all modalities, duplicate reaches 0.939 and variant 0.958 (`relation_ceilings`).
"""

from mmtab.data.synthetic.bayes import ceilings, relation_ceilings
from mmtab.data.synthetic.recipe import MODALITIES, TASKS, Channel, Recipe
from mmtab.data.synthetic.write import write_catalogue

__all__ = ["MODALITIES", "TASKS", "Channel", "Recipe", "ceilings", "relation_ceilings", "write_catalogue"]
