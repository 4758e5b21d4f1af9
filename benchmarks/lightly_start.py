"""The first step of SimCLR as a user of lightly begins it: its documentation's parts, torchvision's ResNet-18, images of a folder.

python benchmarks/lightly_start.py FOLDER SIZE BATCH      prints a line when the first step is taken
"""

import sys

import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform

folder, size, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
network = torchvision.models.resnet18()
network.fc = torch.nn.Identity()
head = SimCLRProjectionHead(512, 512, 128)
dataset = LightlyDataset(folder, transform=SimCLRTransform(input_size=size))
loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=2)
optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.06)
criterion = NTXentLoss()
for views, *_ in loader:
    first, second = (head(network(view)) for view in views[:2])
    loss = criterion(first, second)
    loss.backward()
    optimizer.step()
    print("first step", float(loss), flush=True)
    break
