-- What is no charge is looked for among millions of charges.
create index entry_no_charge on entry (org_id, created_at, entry_id) where kind <> 'consume';
