"""HRD, the language in which templates and instances are written."""

from __future__ import annotations

from buildstep.services.hrd.ask import Ask as Ask
from buildstep.services.hrd.document import Document as Document
from buildstep.services.hrd.document import parse as parse
from buildstep.services.hrd.document import read as read
from buildstep.services.hrd.entries import Entry as Entry
from buildstep.services.hrd.references import Lookup as Lookup
from buildstep.services.hrd.references import resolve as resolve
from buildstep.services.hrd.values import Form as Form
from buildstep.services.hrd.values import Item as Item
from buildstep.services.hrd.values import Value as Value
