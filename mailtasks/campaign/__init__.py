"""A campaign: one template, many people, each a mail of their own; watched, paused, resumed, cancelled.

    campaign = Campaign("spring", Template(...), CampaignOptions(rate="100/s"))
    report = campaign.send("people.csv")
    campaign.status().states

Read it as rows travel: `options` (how it is sent), `gathering` (rows are read and checked, with the `files`
that they name, and wait in a temporary file as `batches`), `prepared` (all is known and nothing accepted),
`intake` (batches enter the ledger), `status` (how it stands), and `handle`, which has all of it under a
campaign's name.
"""

from mailtasks.campaign.handle import Campaign
from mailtasks.campaign.options import CampaignOptions
from mailtasks.campaign.prepared import Prepared, Report
from mailtasks.campaign.status import CampaignStatus

__all__ = ["Campaign", "CampaignOptions", "CampaignStatus", "Prepared", "Report"]
